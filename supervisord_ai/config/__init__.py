"""From the text of a config to frozen policies, or to everything that is wrong with it at once.

`load` is pure: whoever calls it reads the files and says who runs (`Surroundings`). Unknown keys, wrong types, impossible
templates, plans that do not fit and keys without effect are found in one pass, each as `file:line: key: what`.
"""

from supervisord_ai.config.load import Files, load
from supervisord_ai.config.values import (
    Anonymous,
    Config,
    DaemonPolicy,
    Durability,
    GuestsAllow,
    ListenPolicy,
)

__all__ = [
    "Anonymous",
    "Config",
    "DaemonPolicy",
    "Durability",
    "Files",
    "GuestsAllow",
    "ListenPolicy",
    "load",
]
