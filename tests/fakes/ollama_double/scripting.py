"""What a model will say to one request, how long it takes, and how it goes wrong.

Tests in the same process set `Double.script`; a test in another process, or a person with curl, writes the directive into the
prompt: `[[n=5 delay=0.02 fail=3]]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DIRECTIVE = re.compile(r"\[\[([a-z_]+=[^\]]*)\]\]")
UNICODE_TOKEN = "é漢😀\u2028\u0085<&>"
"""Every character that has broken a line reader or an escaper somewhere."""


@dataclass(frozen=True, slots=True)
class Script:
    """One answer of the model. Times in seconds, counts in tokens; None means what the double's options say."""

    tokens: tuple[str, ...] | None = None
    thinking: tuple[str, ...] = ()  # said before the tokens, when the model thinks and was not told not to
    tool_calls: tuple[Mapping[str, Any], ...] = ()  # {"name": ..., "arguments": {...}}, said after the tokens
    has_logprobs: bool = False  # given when asked for
    first_s: float | None = None  # before the first token: the prompt phase
    delay_s: float | None = None  # between two tokens
    prompt_tokens: int | None = None

    fail_status: int | None = None  # the runner refuses: this status before any output
    fail_text: str | None = None
    fail_after: int | None = None  # an error after so many tokens
    is_fatal: bool = False  # that error is the runner's death: the next request loads it again
    no_final: bool = False  # ends cleanly without done:true
    hang_after: int | None = None  # says nothing more after so many tokens, and holds its slot

    cut_at_byte: int | None = None  # the connection is closed after so many bytes of the answer, head included
    is_reset: bool = False  # by RST instead of FIN


def words(count: int) -> tuple[str, ...]:
    """The tokens an unscripted model says."""
    return tuple(f"w{number} " for number in range(count))


def script_in(prompt: str) -> Script | None:
    """The directive in a prompt, or None.

    Keys: n delay first prompt uni repeat status fail die nofinal hang cut reset think tool logp.
    """
    found = _DIRECTIVE.findall(prompt)
    if not found:
        return None
    given = dict(pair.split("=", 1) for pair in found[-1].split() if "=" in pair)
    count = int(given.get("n", "5"))
    tokens = words(count)
    if "uni" in given:
        tokens = (UNICODE_TOKEN,) * count
    if "repeat" in given:
        tokens = ("a",) * count
    return Script(
        tokens=tokens,
        thinking=tuple(f"t{number} " for number in range(int(given.get("think", "0")))),
        tool_calls=({"name": "get_weather", "arguments": {"city": "Paris"}},) * int(given.get("tool", "0")),
        has_logprobs="logp" in given,
        first_s=_seconds(given, "first"),
        delay_s=_seconds(given, "delay"),
        prompt_tokens=_count(given, "prompt"),
        fail_status=_count(given, "status"),
        fail_after=_count(given, "fail"),
        is_fatal="die" in given,
        no_final="nofinal" in given,
        hang_after=_count(given, "hang"),
        cut_at_byte=_count(given, "cut") if "cut" in given else _count(given, "reset"),
        is_reset="reset" in given,
    )


def _seconds(given: Mapping[str, str], key: str) -> float | None:
    return float(given[key]) if key in given else None


def _count(given: Mapping[str, str], key: str) -> int | None:
    return int(given[key]) if key in given else None
