"""The embedded engine: a process of its own that serves Ollama's API from llama.cpp, for `demo` and `url = "embedded"`.

One call: `api` (who may ask, which route, what the body says) -> `generation` (template, tokens) -> `slots` (first come, first
served) -> `residency` (the model is loaded by the first who needs it, unloaded by `keep_alive`) -> `llama` (the one door to
llama.cpp) -> `native` or `openai` (the answer in the caller's dialect). `ledger` writes down every call begun and ended, so
that somebody else can count calls and their peak, across restarts too.

It stands apart from the daemon: it imports serve, wire, clock, core and errors, and its own door. It lives as long as its
standard input is open, and answers only to who knows the secret that came first on it.
"""
