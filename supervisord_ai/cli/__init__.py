"""What the owner types. One file per noun; the only place with exit codes.

`commands.py` holds the whole grammar and imports nothing heavy; `main` then imports the one module that carries the command
out (`supervisord_ai.cli.<module>`, function `run(args) -> int`), so that `status` is there in a moment. A command raises
`UsageError`, `ConfigError`, `door.NotRunning`, `door.Denied` or another SupervisorError, and `main` makes one clear line and
the exit code of it. No traceback reaches a person (AI_SUPERVISOR_TRACEBACK=1 asks for it).
"""
