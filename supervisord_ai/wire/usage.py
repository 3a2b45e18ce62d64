"""Reads from the end of an answer how many tokens were generated, in every face, without parsing the answer.

Native finals say `eval_count`, OpenAI's `usage` `completion_tokens`, Anthropic's and Responses' `output_tokens`; all stand in the
last frame. Text that a model wrote cannot be taken for one: inside a JSON string its quotes are escaped.
"""

from __future__ import annotations

import re

TAIL_BYTES = 4096
_COUNT = re.compile(rb'"(?:eval_count|completion_tokens|output_tokens)":\s*(\d{1,9})\b')


def generated_tokens(body: bytes) -> int:
    """Return the count of the last frame, 0 where it has none (embeds, errors, streams without usage)."""
    counts = _COUNT.findall(body, max(0, len(body) - TAIL_BYTES))
    return int(counts[-1]) if counts else 0
