"""What every suite starts from."""

from __future__ import annotations

import os

from hypothesis import settings

# Where a red run stops others, the examples are the same on every run; here at home each run looks at new ones.
settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
if os.environ.get("CI", "").lower() in {"1", "true"}:
    settings.load_profile("ci")
