"""One process that launches and supervises AI agents and is their only door to Ollama.

The path of a request (`gateway/`): accept -> classify -> admit -> cache -> coalesce -> backlog -> dispatch -> relay -> settle.
The life of an agent (`agents/`): roster -> cage -> spawn -> ready -> running -> ended with one verdict -> restart or rest.

Decisions live in `core/` (pure, `now` is passed in), bytes in `wire/`, and each outside thing has one door: SQL in `store/`,
the operating system in `host/`, Ollama in `ollama/`. `rooms.py` builds everything, `daemon.py` lives it; the nesting of its
nurseries is the order of shutdown. `cli/` is what the owner types.
"""

__version__ = "0.1.0"
