"""Whether the embedded engine is there, asked before anything is started that would wait for it in vain."""

from __future__ import annotations

from supervisord_ai.engine.location import find
from supervisord_ai.errors import UsageError

EMBEDDED = "embedded"


def require_engine() -> None:
    """Return when engine and model are installed.

    Raises:
        UsageError: one of them is missing; the text says what to type.
    """
    found = find()
    missing = [name for name, path in (("llama.cpp", found.runtime), ("its model", found.model_file)) if path is None]
    if missing:
        raise UsageError(f"the embedded engine lacks {' and '.join(missing)}: ai-supervisor engine install")
