"""Decides what is wrong with a machine, or will be one day, before it is: facts in, findings out. Reads nothing itself.

    finding.py  what a finding is, and how bad
    ini.py      WSL's two files, as WSL reads them
    wsl.py      below Windows: what ends the system behind our back, and what makes it smaller than it looks
    machine.py  any Linux: memory, cgroups, pressure, limits, clock, disk, graphics
    files.py    what is ours on the disk: whose, and who may look
    engines.py  every Ollama of the config: there, as assumed, and ours alone

Each finding says what is, what comes of it, and the very lines that change it with the file they belong in. `cli/examine.py`
collects the facts through the doors; a fact that nobody could find out is None, and then nothing is claimed from it.
"""

from supervisord_ai.core.doctor.engines import EngineFacts, Intruder, check_engines
from supervisord_ai.core.doctor.files import FilesFacts, FoundFile, OurFile, check_files
from supervisord_ai.core.doctor.finding import Deed, Finding, Fix, Severity, is_well
from supervisord_ai.core.doctor.machine import MachineFacts, Volume, check_machine
from supervisord_ai.core.doctor.wsl import WslFacts, check_wsl

__all__ = [
    "Deed",
    "EngineFacts",
    "FilesFacts",
    "Finding",
    "Fix",
    "FoundFile",
    "Intruder",
    "MachineFacts",
    "OurFile",
    "Severity",
    "Volume",
    "WslFacts",
    "check_engines",
    "check_files",
    "check_machine",
    "check_wsl",
    "is_well",
]
