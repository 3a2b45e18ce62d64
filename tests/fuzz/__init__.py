"""Fuzzing of whatever reads bytes that others wrote: `scripts/fuzz` drives it, the ordinary tests replay what was kept.

`targets.py` has one function a reader: it takes any bytes and raises where a promise is broken, never for bad input. What the
fuzzer found worth keeping lies in `corpus/TARGET/`, minimised; `docs/fuzzing.md` is the ledger of hours.
"""
