"""A made-up system: one ollama.service, perhaps an ai-supervisor.service, and who listens where because of them.

What is true of the machine follows from what was done to it: a service reads its drop-in when it starts, Ollama listens where
OLLAMA_HOST says, the supervisor listens where its config says, and two cannot listen at one address.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisord_ai.config import Config
from supervisord_ai.core.takeover import OUR_UNIT, UnitFacts, read_drop_in
from supervisord_ai.errors import HostFault

OLLAMA = "ollama.service"


@dataclass
class FakeSystem:
    """Services and the world around them. `fails` names deeds that raise; `breaks` are called before a deed."""

    config: Path
    environment: dict[str, str] = field(default_factory=dict)
    has_ollama: bool = True
    we_run: bool = True
    has_stray_daemon: bool = False
    ollama_hates_new_port: bool = False
    has_no_restart: bool = False  # Ollama's unit fails for good, where it fails
    we_do_not_start: bool = False
    is_mute: bool = False  # Ollama listens and says nothing
    we_pass_nothing_on: bool = False
    snatched: str = ""  # an address that somebody takes as soon as Ollama leaves it
    taken: set[str] = field(default_factory=set)
    fails: set[str] = field(default_factory=set)
    interrupts: set[str] = field(default_factory=set)
    drop_ins: dict[tuple[str, str], str] = field(default_factory=dict)
    listening: dict[str, str] = field(default_factory=dict)  # address -> unit
    deeds: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    waits_to_the_end: int = 0

    def __post_init__(self) -> None:
        if self.has_ollama:
            self._start(OLLAMA)
        if self.we_run:
            self._start(OUR_UNIT)

    # --- services ---

    def facts(self, unit: str) -> UnitFacts:
        if unit == OLLAMA and self.has_ollama:
            is_active = OLLAMA in self.listening.values()
            return UnitFacts(True, is_active, self._environment(), has_failed=self.has_no_restart and not is_active)
        if unit == OUR_UNIT:
            return UnitFacts(self.we_run, self.we_run and OUR_UNIT in self.listening.values(), {})
        return UnitFacts()

    def start(self, unit: str) -> None:
        self._deed(f"start {unit}")
        self._start(unit)

    def stop(self, unit: str) -> None:
        self._deed(f"stop {unit}")
        self._stop(unit)

    def restart(self, unit: str) -> None:
        self._deed(f"restart {unit}")
        self._stop(unit)
        self._start(unit)

    def drop_in(self, unit: str, name: str) -> str | None:
        return self.drop_ins.get((unit, name))

    def write_drop_in(self, unit: str, name: str, text: str) -> None:
        self._deed(f"write {name}")
        self.drop_ins[unit, name] = text

    def remove_drop_in(self, unit: str, name: str) -> None:
        self._deed(f"remove {name}")
        self.drop_ins.pop((unit, name), None)

    def _deed(self, words: str) -> None:
        self.deeds.append(words)
        if words in self.interrupts:
            self.interrupts.discard(words)
            raise KeyboardInterrupt
        if words in self.fails:
            self.fails.discard(words)
            raise HostFault(f"{words}: systemd said no")

    def _environment(self) -> dict[str, str]:
        told = dict(self.environment)
        for text in self.drop_ins.values():
            move = read_drop_in(text)
            assert move is not None
            told["OLLAMA_HOST"] = f"127.0.0.1:{move.port}"
        return told

    def _start(self, unit: str) -> None:
        if unit == OLLAMA:
            where = self._environment().get("OLLAMA_HOST", "127.0.0.1:11434").replace("0.0.0.0", "127.0.0.1")
            if where.endswith(":11436") and self.ollama_hates_new_port:
                return
            self._listen(where, unit)
            return
        wanted = tomllib.loads(self.config.read_text()).get("listen", {}).get("tcp", ["127.0.0.1:11435"])
        if any(where in self.listening or where in self.taken for where in wanted) or (self.we_do_not_start and len(wanted) > 1):
            return  # it ended at once: a taken port changes nothing
        for where in wanted:
            self._listen(where, unit)

    def _listen(self, where: str, unit: str) -> None:
        if where not in self.listening and where not in self.taken:
            self.listening[where] = unit

    def _stop(self, unit: str) -> None:
        self.listening = {where: who for where, who in self.listening.items() if who != unit}
        if unit == OLLAMA and self.snatched:
            self.taken.add(self.snatched)

    # --- the world ---

    def ask(self, url: str) -> dict[str, Any] | None:
        address, _, path = url.removeprefix("http://").partition("/")
        who = self.listening.get(address)
        if who == OLLAMA:
            return {"version": "0.12.6"} if path == "api/version" and not self.is_mute else None
        if who == OUR_UNIT:
            if path == "supervisor/v1/whoami":
                return {"name": "owner", "kind": "owner"}
            if self.we_pass_nothing_on:
                return None
            (backend,) = tomllib.loads(self.config.read_text())["ollama"]
            return self.ask(f"{backend['url']}/{path}")
        return None

    def is_free(self, address: str) -> bool:
        return address not in self.listening and address not in self.taken

    def daemon_is_open(self, config: Config) -> bool:
        return self.has_stray_daemon or OUR_UNIT in self.listening.values()

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        came = condition()
        self.waits_to_the_end += not came
        return came

    def say(self, line: str) -> None:
        self.said.append(line)

    def hear_no_more(self) -> None:
        self.interrupts.clear()
