"""BYTES: what goes over a wire, without the wire. Everything here is given bytes and returns values, or the other way round.

A request comes in through `http1` (its head) and `json_go` (its body, as Go reads JSON); `go_struct` binds the body to one of the
tables in `messages`. An answer goes out through `ndjson` or `sse`, a piece at a time; `ollama` joins, keeps and replays native
answers, `faces` shapes errors and kept answers of the OpenAI and Anthropic dialects.
"""
