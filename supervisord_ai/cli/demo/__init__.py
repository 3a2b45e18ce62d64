"""The demo: 131 real agents, one socket, two slots, a real model, a kill in the middle if asked, and a table at the end.

`story` (what is asked) -> `stage` (a folder, a config, a daemon as a child) -> `agent` (the program that runs 131 times) ->
`view` (what you see meanwhile) -> `table` (what came out, and whether it is what was promised). `play` tells it in order.
"""

from supervisord_ai.cli.demo.play import run

__all__ = ["run"]
