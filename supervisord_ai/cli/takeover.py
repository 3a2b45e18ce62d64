"""`takeover`: moves the Ollama of this system behind us, so that programs that call localhost:11434 need no change.

    look -> what the config would say, checked -> drop-in, Ollama restarts at its new port -> it answers there
         -> config -> our service restarts, at Ollama's old address -> one call through us -> done

Whatever fails or interrupts it after the first change: everything is put back, in the order in which the address must become
free again, and Ollama's answer at its old address is waited for. `--undo` is the same way back, from what the drop-in says.
"""

from __future__ import annotations

import json
import os
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from supervisord_ai.cli.door import Door, surroundings
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles, Instead, load_config
from supervisord_ai.config import Config, load
from supervisord_ai.config.editing import with_backend_url, with_tcp, without_tcp
from supervisord_ai.core.places import CONTROL_SOCKET
from supervisord_ai.core.takeover import DROP_IN, OUR_UNIT, Move, drop_in, lines_by_hand, plan, read_drop_in
from supervisord_ai.errors import HostFault, SupervisorError, UsageError
from supervisord_ai.host import sockets
from supervisord_ai.host.systemd import Services, Systemctl, replace_file

ANSWER_WITHIN_S = 60.0  # systemd restarts it after 3 s, and a big machine reads its models first
ASK_S = 5.0
PAUSE_S = 0.2
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class World(Protocol):
    """What the command touches besides services; `Machine` is this machine."""

    def ask(self, url: str) -> dict[str, Any] | None:
        """Return the JSON object that a GET is answered with, None while there is no such answer."""

    def is_free(self, address: str) -> bool:
        """Tell whether nobody listens there."""

    def daemon_is_open(self, config: Config) -> bool:
        """Tell whether a daemon of this config runs."""

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Return when it holds, True, or after the time, False."""

    def say(self, line: str) -> None:
        """Tell the owner."""

    def hear_no_more(self) -> None:
        """From now on no signal interrupts: a second ^C must not leave it half put back."""


class Machine:
    """This machine."""

    def ask(self, url: str) -> dict[str, Any] | None:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=ASK_S)
        try:
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return told if answer.status == 200 and isinstance(told, dict) else None

    def is_free(self, address: str) -> bool:
        try:
            sockets.bind_tcp(address).close()
        except HostFault:
            return False
        return True

    def daemon_is_open(self, config: Config) -> bool:
        return Door(f"{config.daemon.runtime_dir}/{CONTROL_SOCKET}").is_open()

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_S)
        return True

    def say(self, line: str) -> None:
        print(line, flush=True)

    def hear_no_more(self) -> None:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)


def run(args: Namespace) -> int:
    if args.print_lines:
        print(lines_by_hand(args.port), end="")
        return Exit.GOOD
    if os.geteuid() != 0:
        raise UsageError("only root may change another service: sudo ai-supervisor takeover (or --print, to do it by hand)")
    if not Path("/run/systemd/system").is_dir():
        raise UsageError("this system is not run by systemd: ai-supervisor takeover --print says what to do by hand")
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)  # as ^C: everything is put back
    takeover = Takeover(args.unit, Systemctl(), Machine())
    if args.undo:
        takeover.undo()
    else:
        takeover.move(load_config(args), port=args.port, may_close=args.yes)
    return Exit.GOOD


class Takeover:
    """One move of one service, and the way back."""

    def __init__(self, unit: str, services: Services, world: World) -> None:
        self._unit = unit if "." in unit else f"{unit}.service"
        self._services = services
        self._world = world

    def move(self, config: Config, *, port: int, may_close: bool = False) -> None:
        """Move it behind us.

        Raises:
            UsageError, ConfigError: it cannot be done; nothing was changed.
            HostFault: it failed; everything was put back, or the text says what was not.
        """
        world = self._world
        self._refuse_if_taken_over()
        move = plan(
            self._unit,
            self._services.facts(self._unit),
            config=config.path or "",
            backends=config.backends,
            port=port,
            may_close=may_close,
        )
        we_run = self._services.facts(OUR_UNIT).is_active
        if not we_run and world.daemon_is_open(config):
            raise UsageError("a daemon runs that systemd did not start: stop it first (ai-supervisor stop), and start it after")
        version = self._version(move.old_url)
        if version is None:
            raise UsageError(f"{self._unit} does not answer at {move.old_url}: see systemctl status {self._unit}")
        if not world.is_free(f"127.0.0.1:{move.port}"):
            raise UsageError(f"port {move.port} is taken: name another with --port")
        before = _text_of(move.config)
        after = with_tcp(with_backend_url(before, move.backend, move.new_url), move.address)
        load(move.config, Instead(move.config, after), surroundings())

        try:
            self._forward(move, after, we_run=we_run, version=version)
        except SupervisorError as exc:
            self._put_everything_back(move, before, why=str(exc), we_run=we_run)
            raise HostFault(f"{exc}; everything is as it was before") from exc
        except BaseException:
            self._put_everything_back(move, before, why="interrupted", we_run=we_run)
            raise
        world.say(f"{self._unit} listens at {move.new_url} now, and {move.config} says so")
        if we_run:
            world.say(f"programs that call {move.old_url} reach ai-supervisor, which asks Ollama {version}")
        else:
            world.say(f"start ai-supervisor now: nobody answers at {move.old_url} until it runs")
        world.say("to take it back: ai-supervisor takeover --undo")

    def _forward(self, move: Move, config_text: str, *, we_run: bool, version: str) -> None:
        world, services = self._world, self._services
        services.write_drop_in(self._unit, DROP_IN, drop_in(move))
        services.restart(self._unit)
        if not self._comes_up(move.new_url):
            raise HostFault(f"{self._unit} does not answer at {move.new_url}: see journalctl -u {self._unit}")
        if not world.wait(lambda: world.is_free(move.address), ANSWER_WITHIN_S):
            raise HostFault(f"somebody else than {self._unit} listens at {move.address}")
        _write(move.config, config_text)
        if not we_run:
            return
        services.restart(OUR_UNIT)
        # Us and nobody else: only the supervisor knows who asks. And through it Ollama, the same one as before.
        if not world.wait(lambda: self._is_us(move.old_url), ANSWER_WITHIN_S):
            raise HostFault(f"ai-supervisor does not answer at {move.old_url}: see journalctl -u {OUR_UNIT}")
        if not world.wait(lambda: self._version(move.old_url) == version, ANSWER_WITHIN_S):
            raise HostFault(f"Ollama {version} does not answer through ai-supervisor at {move.old_url}")

    def undo(self) -> None:
        """Take a move back.

        Raises:
            UsageError: there is none, or the config was changed in a way that is left to its owner; nothing was changed.
            HostFault: it failed; what was done before stays done, and it can be called again.
        """
        move = self._told_by_drop_in()
        text = without_tcp(with_backend_url(_text_of(move.config), move.backend, move.url), move.address)
        load(move.config, Instead(move.config, text), surroundings())
        self._put_back(move, text, we_run=self._services.facts(OUR_UNIT).is_active)
        self._world.say(f"{self._unit} listens at {move.old_url} again, and {move.config} is as it was before")

    # --- the way back -----------------------------------------------------------------------------------------------------

    def _put_everything_back(self, move: Move, config_text: str, *, why: str, we_run: bool) -> None:
        """Undo what was done of a move that failed.

        Raises:
            HostFault: that failed too; the text says both.
        """
        self._world.hear_no_more()
        self._world.say("it did not work: putting everything back")
        try:
            self._put_back(move, config_text, we_run=we_run)
        except SupervisorError as exc:
            raise HostFault(f"{why}; then putting it back failed too: {exc}. Try: ai-supervisor takeover --undo") from exc

    def _put_back(self, move: Move, config_text: str, *, we_run: bool) -> None:
        """The config, while the drop-in still tells what it was; we leave the address, Ollama takes it, we come back."""
        services = self._services
        if _text_of(move.config) != config_text:
            _write(move.config, config_text)
        if we_run:
            services.stop(OUR_UNIT)
        services.remove_drop_in(self._unit, DROP_IN)
        services.restart(self._unit)
        came_back = self._comes_up(move.old_url)
        if we_run:
            services.start(OUR_UNIT)
        if not came_back:
            raise HostFault(f"{self._unit} does not answer at {move.old_url}: see journalctl -u {self._unit}")

    # --- looks ------------------------------------------------------------------------------------------------------------

    def _refuse_if_taken_over(self) -> None:
        text = self._services.drop_in(self._unit, DROP_IN)
        if text is not None:
            move = read_drop_in(text)
            where = "" if move is None else f", to {move.new_url}"
            raise UsageError(f"{self._unit} was moved already{where}: ai-supervisor takeover --undo takes it back")

    def _told_by_drop_in(self) -> Move:
        text = self._services.drop_in(self._unit, DROP_IN)
        if text is None:
            raise UsageError(f"{self._unit} was not moved: there is nothing to take back")
        move = read_drop_in(text)
        if move is None:
            raise UsageError(f"{DROP_IN} of {self._unit} was changed by somebody: remove it by hand (systemctl daemon-reload)")
        return move

    def _comes_up(self, url: str) -> bool:
        """Tell whether the service answers there, once it does, or has ended for good, or had time enough."""
        self._world.wait(lambda: self._version(url) is not None or self._services.facts(self._unit).has_failed, ANSWER_WITHIN_S)
        return self._version(url) is not None

    def _is_us(self, url: str) -> bool:
        return "kind" in (self._world.ask(f"{url}/supervisor/v1/whoami") or {})

    def _version(self, url: str) -> str | None:
        told = self._world.ask(f"{url}/api/version")
        version = None if told is None else told.get("version")
        return version if isinstance(version, str) else None


def _text_of(path: str) -> str:
    try:
        return DiskFiles().read(path).decode()
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path} is not UTF-8") from exc


def _write(path: str, text: str) -> None:
    try:
        replace_file(Path(path), text.encode())
    except OSError as exc:
        raise HostFault(f"{path} cannot be written: {exc.strerror}") from exc


__all__ = ["Takeover", "World", "run"]
