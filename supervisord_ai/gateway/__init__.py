"""The path of a request, a file per step.

    accept -> classify -> admit -> cache -> backlog -> dispatch -> relay -> settle
                |                    |         |                       |
                desk, forward        hit: replay, no slot              headers, spool
                (needs no slot)                rejoin: by key, or by body after a crash (recovery)

Requests that ask the same meet in the backlog: they wait side by side, and whichever starts takes the others along; who comes
later joins the answer from its first byte. Embeds that wait together go up as one list (`batch.py`). `request.py` holds the
three that this takes apart: a request, the answer it shares, the slot job that brings it.

`gateway.py` builds it; `inference.py` walks it for one request, and `request.py` is the one memory of a request on the way. Who
leaves is noticed by `Inference._attend` and is out of whatever step it was in. A slot job (`dispatch.py`) is one of the four
places that catch exceptions broadly.
"""
