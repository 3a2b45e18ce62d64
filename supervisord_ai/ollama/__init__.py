"""The daemon's only way to Ollama: a client over httpx's API, on a transport of our own that keeps the cost low."""

import sys

# httpx comes with a command line of its own, and imports it (click, rich, pygments: 4 MB) wherever they are installed. Where
# they are not it does without, and so it does here: None in this table is Python's own way to say "not installed".
sys.modules["httpx._main"] = None  # type: ignore[assignment]
import httpx as httpx  # noqa: E402

del sys.modules["httpx._main"]
