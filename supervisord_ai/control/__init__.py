"""The owner's door: what `status` shows and what stops the daemon.

`api.py` answers on control.sock, `report.py` makes the JSON out of what the rooms show of themselves. `web.py`
serves the page on loopback, `metrics.py` what Prometheus scrapes. Nothing here keeps state but counters and the hour that
the page shows, and nothing decides but who may come in, which the identity core does.
"""
