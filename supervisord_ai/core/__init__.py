"""Decisions: synchronous, pure, `now` passed in. No I/O, no log, no clock, no randomness of its own.

Each module's docstring says which decision it makes and what it does not know. State is an enum and a table
(`machine.py`); what is to be done is returned as a frozen value, and a shell does it.
"""
