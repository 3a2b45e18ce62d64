"""The owner's door: what `status` shows and what stops the daemon.

`api.py` answers on control.sock, `report.py` makes the JSON out of what the rooms show of themselves. Nothing here keeps
state but counters, and nothing decides but who may come in, which the identity core does.
"""
