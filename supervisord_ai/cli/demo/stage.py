"""The demo's stage: a folder of its own, a config, the daemon as a child, and the proof that nothing is left of them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from supervisord_ai.cli.demo.story import OPUS, SONNET, Part, plan_of
from supervisord_ai.cli.door import Door
from supervisord_ai.core.places import CONTROL_SOCKET, LLM_SOCKET
from supervisord_ai.core.roster import CLASS_DEFAULTS, MB
from supervisord_ai.engine.ledger import LedgerSummary, summarise
from supervisord_ai.errors import Denied, HostFault, NotRunning
from supervisord_ai.host.cgroup import folder_name
from supervisord_ai.host.memory import machine_memory

PROGRAM = Path(__file__).with_name("agent.py")
NOBODY = "nobody"

UP_WITHIN_S = 120.0
GONE_WITHIN_S = 15.0  # the daemon promises 8
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays: the engine (None: the embedded one), the user agents run as (None: whoever we are), their Python."""

    model: str
    engine_url: str | None
    user: str | None
    python: str

    @property
    def user_detail(self) -> str:
        if self.user is None:
            return "agents run as you"
        if self.user == "root":
            return "agents run as root: no Python on this machine can be reached by another user"
        return f"agents run as {self.user}"


def find_cast(model: str, engine_url: str | None) -> Cast:
    """Decide who the agents are. As root they are nobody, where nobody can reach a Python."""
    own = os.path.realpath(sys.executable)
    if os.geteuid() != 0:
        return Cast(model, engine_url, None, own)
    for python in (own, "/usr/bin/python3", "/usr/local/bin/python3"):
        if _is_reachable(python):
            return Cast(model, engine_url, NOBODY, python)
    return Cast(model, engine_url, "root", own)


def _is_reachable(python: str) -> bool:
    """Whether any user can execute it: it, and every folder above it and above its library, are open to others."""
    try:
        asked = [python, "-I", "-S", "-c", "import sys; print(sys.prefix)"]
        told = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    files = (Path(os.path.realpath(python)), Path(told.stdout.strip()))
    return all(path.stat().st_mode & 0o001 for file in files for path in (file, *file.parents))


class Stage:
    """Everything the demo puts on the machine. A context manager: leaving it takes everything away again."""

    options: tuple[str, ...] = ()  # of `run`, beside those of every play

    def __init__(self, cast: Cast, parts: Iterable[Part], *, root: Path | None = None) -> None:
        self.cast = cast
        self.parts = tuple(parts)
        self.folder = Path(tempfile.mkdtemp(prefix="ai-demo-", dir=root))
        self.is_kept = False
        self._daemon: subprocess.Popen[bytes] | None = None
        self.door = Door(str(self.folder / "run" / CONTROL_SOCKET))

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    # --- the daemon -----------------------------------------------------------------------------------------------------

    def start_daemon(self) -> float:
        """Start it and wait until it answers; returns the seconds that took.

        Raises:
            HostFault: it ended, or did not answer in time; with the last lines of its log.
        """
        began = time.monotonic()
        command = [sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine", "--config", str(self._config)]
        command += self.options
        with (self.folder / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*command, "--engine-ledger", str(self._ledger)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # ^C is for us: we stop it in order
            )
        while not self.door.is_open():
            self.check_daemon()
            if time.monotonic() - began > UP_WITHIN_S:
                raise HostFault(f"the daemon did not answer within {UP_WITHIN_S:.0f} s:\n{self.last_words()}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def check_daemon(self) -> None:
        """Raises: HostFault when it is not running any more."""
        if self._daemon is None or self._daemon.poll() is not None:
            raise HostFault(f"the daemon has ended:\n{self.last_words()}")

    def kill_daemon(self) -> None:
        """What nobody survives: SIGKILL. Its agents stay, and ask again when it is back."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGKILL)
        self._daemon.wait()

    def stop_daemon(self) -> float:
        """Stop it as its owner would; returns the seconds until it was gone.

        Raises:
            HostFault: it is still there.
        """
        assert self._daemon is not None
        began = time.monotonic()
        self._daemon.send_signal(signal.SIGTERM)
        try:
            self._daemon.wait(GONE_WITHIN_S)
        except subprocess.TimeoutExpired as exc:
            raise HostFault(f"the daemon did not end within {GONE_WITHIN_S:.0f} s:\n{self.last_words()}") from exc
        return time.monotonic() - began

    # --- what can be seen of it -----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any] | None:
        """`/v1/status`, or None while nobody answers."""
        return self._told("/v1/status")

    def agents(self) -> dict[str, dict[str, Any]]:
        """Every agent by name; empty while nobody answers."""
        told = self._told("/v1/agents")
        return {} if told is None else {agent["name"]: agent for agent in told["agents"]}

    def _told(self, target: str) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = self.door.get(target)
        except (NotRunning, Denied):  # it was killed, or is not up again
            return None
        return told

    def answers(self) -> list[dict[str, Any]]:
        """Everything the agents have written down so far."""
        found = []
        for file in sorted((self.folder / "answers").iterdir()):
            for line in file.read_text().splitlines():
                with suppress(json.JSONDecodeError):  # being written just now
                    found.append(json.loads(line))
        return found

    def ledger(self) -> LedgerSummary | None:
        """What the embedded engine counted; None for an Ollama of somebody else."""
        if self.cast.engine_url is not None:
            return None
        return summarise(self._ledger.read_text().splitlines()) if self._ledger.exists() else LedgerSummary()

    def grandchildren(self, name: str) -> list[tuple[int, int]]:
        """(pid, start time) of every process that an agent left behind, as it wrote them down."""
        mark = self.folder / "marks" / name
        lines = mark.read_text().splitlines() if mark.exists() else []
        return [(int(pid), int(started)) for pid, started in (line.split() for line in lines)]

    def left_behind(self) -> list[str]:
        """What still belongs to this demo: agents by the socket they were given, daemon and engine by their command line."""
        folder = os.fsencode(self.folder)
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):  # it ended, or is somebody else's
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                is_ours = b"supervisord_ai" in command and folder in command
                if is_ours or b"AI_SUPERVISOR_SOCKET=" + folder + b"/" in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(f"{pid} {command.replace(bytes(1), b' ').decode(errors='replace')[:60]}")
        return found + self._groups_left()

    def _groups_left(self) -> list[str]:
        """Cgroups of this demo's daemon, in any hierarchy."""
        name = folder_name(self.folder / "state")
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [str(found) for _, where, kind, *_ in mounts if kind.startswith("cgroup") for found in Path(where).rglob(name)]

    def last_words(self, lines: int = 15) -> str:
        with suppress(OSError):
            return "\n".join((self.folder / "daemon.log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    # --- setting up and taking away -------------------------------------------------------------------------------------

    @property
    def _config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def _ledger(self) -> Path:
        return self.folder / "engine-calls"

    def _set_up(self) -> None:
        self.folder.chmod(0o755)
        shutil.copy(PROGRAM, self.folder / PROGRAM.name)  # the checkout may be where no other user can read
        for name in ("plans", "answers", "marks", "log"):
            (self.folder / name).mkdir()
        if self.cast.user not in {None, "root"}:
            who = pwd.getpwnam(str(self.cast.user))
            for name in ("answers", "marks"):
                os.chown(self.folder / name, who.pw_uid, who.pw_gid)
        for part in self.parts:
            (self.folder / "plans" / f"{part.name}.json").write_text(json.dumps(plan_of(part, self.folder)))
        self._config.write_text(self.config_text())

    def config_text(self) -> str:
        """The caps as shipped, on a machine that may be smaller: what is promised beyond it is declared."""
        machine_mb = machine_memory().total_bytes // MB
        agents_mb = max(machine_mb - 3500, 1000)
        caps_mb = (OPUS * CLASS_DEFAULTS["opus"].memory_bytes + SONNET * CLASS_DEFAULTS["sonnet"].memory_bytes) // MB
        overcommit = max(1.0, caps_mb / agents_mb * 1.01)
        user = f'user = "{self.cast.user}"\n' if self.cast.user is not None else ""
        words = [self.cast.python, "-I", "-S", f"{self.folder}/{PROGRAM.name}", f"{self.folder}/plans/{{name}}.json"]
        program = json.dumps(words)
        classes = "".join(
            f'[class.{name}]\nready = "request"\n{user}'
            f'[[agents]]\nname = "{name}-{{n:02}}"\nclass = "{name}"\ncount = {count}\ncommand = {program}\n'
            for name, count in (("opus", OPUS), ("sonnet", SONNET))
        )
        return f"""\
[daemon]
runtime_dir = "{self.folder}/run"
state_dir = "{self.folder}/state"
log_dir = "{self.folder}/log"
[web]
listen = ""
[listen]
tcp = []
[memory]                  # {OPUS} x 300 MB + {SONNET} x 256 MB are promised, on a machine of {machine_mb} MB
total = "{agents_mb + 2500}MB"
os = "1GB"
ollama = "1GB"
cache = "300MB"
monitoring = "100MB"
agents = "{agents_mb}MB"
overcommit = {overcommit:.2f}
[start]
batch_size = 20
batch_delay = "5s"
[[ollama]]
name = "main"
url = "{self.cast.engine_url or "embedded"}"
slots = 2
{classes}"""

    def _clear(self) -> None:
        """End what is left and take the folder away. Called on every way out, ^C included."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._daemon.wait(GONE_WITHIN_S)
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.kill()
            self._daemon.wait()
        for pid in self._strays():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not self.is_kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _strays(self) -> Iterator[int]:
        return (int(line.split()[0]) for line in self.left_behind() if line[0].isdigit())


def is_alive(pid: int, started: int) -> bool:
    """Whether that very process still runs (a number may have a new owner, a zombie does not run)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[19]) == started and fields[0] != "Z"


__all__ = ["LLM_SOCKET", "Cast", "Stage", "find_cast", "is_alive"]
