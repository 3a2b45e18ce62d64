"""The only SQL: the journal of requests, agents and events, and the L2 cache, each in a SQLite file of its own.

Two files, because checkpoints and evictions of the cache must never delay an acknowledgement. Memory is the truth while the
daemon lives; the journal is what it is rebuilt from. How a write becomes durable is `database.py`'s story; what is written
is told by `requests.py` and `journal.py`; `state.py` opens them all in one folder.
"""
