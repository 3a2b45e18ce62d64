"""`try -- CMD`: a throw-away daemon in a folder of its own, CMD as its one agent, and a summary. No config, no root.

    find Ollama -> write a config -> start the daemon -> show what CMD writes -> CMD ended -> ask for the figures -> stop

Nothing is left behind, whether CMD ends, the daemon fails or somebody presses ^C.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from supervisord_ai.cli.door import Door, surroundings
from supervisord_ai.cli.embedded import EMBEDDED, require_engine
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import printable, size_of, span_of
from supervisord_ai.config.units import MemoryCap, Unreadable
from supervisord_ai.config.writing import braced, text
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.locate import Place, Way, places, what_to_do
from supervisord_ai.core.places import CONTROL_SOCKET, config_path
from supervisord_ai.core.roster import CLASS_DEFAULTS, MB
from supervisord_ai.core.serving import OLLAMA_PORT
from supervisord_ai.engine.location import MODEL
from supervisord_ai.errors import Denied, HostFault, NotRunning, UsageError
from supervisord_ai.host import wsl

AGENT = "try"
DEFAULT_OLLAMA = "http://127.0.0.1:11434"
PROBE_S = 3.0
POLL_S = 0.1
UP_WITHIN_S = 20.0
STOP_WITHIN_S = 15.0
SILENT_S = 5.0  # after so long without a word of the agent its owner is told what it waits for
ROOM = 1.25
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENDED = {AgentState.FINISHED, AgentState.STOPPED, AgentState.QUARANTINED}


def run(args: Namespace) -> int:
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        raise UsageError("what is to be run? For example: ai-supervisor try -- python3 my_agent.py")
    if args.engine:
        require_engine()
        print(f"ai-supervisor: the embedded engine, with {MODEL}", file=sys.stderr)
    found = Found(EMBEDDED, EMBEDDED) if args.engine else find_ollama(args.ollama, os.environ)
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)  # as ^C: nothing may be left behind
    with tempfile.TemporaryDirectory(prefix="ai-try-") as name:
        trial = Trial(Path(name), config_of(Path(name), found.url, words, args))
        result = trial.run()
    if args.json:
        print(json.dumps({"ollama": found.url, **result.as_json()}, indent=2), file=sys.stderr)
    else:
        has_config = os.path.exists(config_path(surroundings(), None))
        kept = kept_lines(words, found.kept, env=args.env, peak_bytes=result.agent["peak_bytes"], has_config=has_config)
        print(summary(result, kept), file=sys.stderr)
    if result.was_interrupted:
        return Exit.INTERRUPTED
    return Exit.GOOD if result.agent.get("verdict") == "finished" else Exit.NO


# --- what to run it before ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """An Ollama that answers: where, and what a config calls it that is to be kept."""

    url: str
    kept: str


def find_ollama(asked: str | None, env: Mapping[str, str]) -> Found:
    """Return the Ollama that was asked for, else the one that `url = "auto"` would find.

    Raises:
        UsageError: it does not answer, or there is none.
    """
    facts = wsl.facts(environ=env)
    tried: list[tuple[Place, str]] = []
    for place in [_asked_for(asked)] if asked else places("auto", facts):
        version = _version_at(place.host, place.port)
        if version is not None:
            shown = place.url if asked else str(place)
            print(f"ai-supervisor: Ollama {printable(version)} at {shown}", file=sys.stderr)
            return Found(place.url, "windows" if place.way is Way.GATEWAY else place.url)
        tried.append((place, "no answer"))
    others = "name another with --ollama URL, or use the embedded engine with --engine embedded"
    if asked:
        raise UsageError(f"no Ollama answers at {tried[0][0].url.removeprefix('http://')}: start one, {others}")
    raise UsageError(f"{what_to_do('auto', facts, tried).rstrip('.')}, {others}")


def _asked_for(url: str) -> Place:
    where = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = where.hostname, where.port or OLLAMA_PORT
    except ValueError as exc:
        raise UsageError(f"{url} is not an address: write http://host:port") from exc
    if where.scheme != "http" or not host:
        raise UsageError(f"{url} is not an address that can be used: write http://host:port")
    return Place(host, port, Way.NAMED)


def _version_at(host: str, port: int) -> str | None:
    connection = HTTPConnection(host, port, timeout=PROBE_S)
    try:
        connection.request("GET", "/api/version")
        return str(json.loads(connection.getresponse().read())["version"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def config_of(folder: Path, url: str, words: list[str], args: Namespace) -> str:
    """Return the config of the throw-away daemon."""
    try:
        MemoryCap.read(args.memory)
    except Unreadable as exc:
        raise UsageError(f"--memory {exc}") from exc
    env = dict(_variable(one) for one in args.env)
    user = 'user = "root"\n' if os.geteuid() == 0 else ""
    return f"""
[daemon]
runtime_dir = {text(f"{folder}/run")}
state_dir = {text(f"{folder}/state")}
log_dir = {text(f"{folder}/log")}
path = {text(os.environ.get("PATH", os.defpath))}
durability = "process"
[web]
listen = ""
[listen]
tcp = ["127.0.0.1:0"]
[memory]
total = {text(args.memory)}
agents = {text(args.memory)}
os = "0B"
ollama = "0B"
cache = "0B"
monitoring = "0B"
[[ollama]]
url = {text(url)}
[class.{AGENT}]
memory = {text(args.memory)}
priority = 3
ceiling = 1
restart = "no"
{user}[[agents]]
name = "{AGENT}"
class = "{AGENT}"
command = {braced(words)}
cwd = {braced(os.getcwd())}
env = {{ {", ".join(f"{name} = {braced(value)}" for name, value in env.items())} }}
"""


def _variable(asked: str) -> tuple[str, str]:
    name, equals, value = asked.partition("=")
    if not name.isidentifier():
        raise UsageError(f"--env {asked}: write NAME=VALUE, or NAME to pass your own on")
    if not equals and name not in os.environ:
        raise UsageError(f"--env {name}: it is not in your environment")
    return name, value if equals else os.environ[name]


# --- running it ---------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What there is to say afterwards."""

    agent: dict[str, Any]
    totals: dict[str, Any]
    guarantee: str
    took_s: float
    was_interrupted: bool

    def as_json(self) -> dict[str, Any]:
        kept = ("verdict", "detail", "peak_bytes", "cap_bytes")
        return {
            **{key: self.agent.get(key) for key in kept},
            "totals": self.totals,
            "guarantee": self.guarantee,
            "took_s": round(self.took_s, 3),
            "was_interrupted": self.was_interrupted,
        }


class Trial:
    """One throw-away daemon."""

    def __init__(self, folder: Path, config: str) -> None:
        self._folder = folder
        self._door = Door(f"{folder}/run/{CONTROL_SOCKET}")
        self._shown_bytes = 0
        self._peak_bytes: int | None = None
        (folder / "config.toml").write_text(config)

    def run(self) -> Result:
        """Run the agent to its end, or until ^C.

        Raises:
            HostFault: the daemon could not be started, or ended by itself.
        """
        with self._daemon() as process:
            self._wait_up(process)
            began = time.monotonic()
            was_interrupted = False
            try:
                self._watch(process)
            except KeyboardInterrupt:
                was_interrupted = True
            agent, status = self._look(), self._door.get("/v1/status")
            self._show_output(agent["log_path"])
        return Result(agent, status["totals"], status["guarantee"]["level"], time.monotonic() - began, was_interrupted)

    @contextmanager
    def _daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine"]
        with (self._folder / "daemon.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--config", str(self._folder / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # ^C is for us; we then end the daemon in good order
            )
        try:
            yield process
        finally:
            for number in STOPPING:  # a second ^C must not leave the daemon behind
                signal.signal(number, signal.SIG_IGN)
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + UP_WITHIN_S
        while not self._door.is_open():
            self._check(process)
            if time.monotonic() > deadline:
                raise HostFault(f"the daemon does not come up within {UP_WITHIN_S:.0f} s:\n{self._log_tail()}")
            time.sleep(POLL_S / 2)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Show what the agent writes until it ended; where it is silent, what it waits for."""
        heard_at, heard_bytes, silent_s = time.monotonic(), 0, SILENT_S
        while True:
            if self._shown_bytes != heard_bytes:
                heard_at, heard_bytes, silent_s = time.monotonic(), self._shown_bytes, SILENT_S
            elif time.monotonic() - heard_at > silent_s:
                print(f"ai-supervisor: {waits_for(self._door.get('/v1/status'))}", file=sys.stderr, flush=True)
                silent_s *= 2  # who is silent by nature is not told of for ever
            self._check(process)
            try:
                agent = self._look()
            except (NotRunning, Denied):
                self._check(process)
                raise
            self._show_output(agent["log_path"])
            if agent["state"] in ENDED:
                return
            time.sleep(POLL_S)

    def _look(self) -> dict[str, Any]:
        """Ask how the agent is. Its peak is remembered: once it ended, its cage is gone."""
        agent: dict[str, Any] = self._door.agent(AGENT)
        seen = [size for size in (self._peak_bytes, agent["peak_bytes"], agent["memory_bytes"]) if size is not None]
        self._peak_bytes = agent["peak_bytes"] = max(seen, default=None)
        return agent

    def _check(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            raise HostFault(f"the daemon ended with {process.returncode}:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        lines = (self._folder / "daemon.log").read_text(errors="replace").splitlines()
        return "\n".join(f"  {printable(line)}" for line in lines[-10:])

    def _show_output(self, log_path: str) -> None:
        """Pass on what the agent wrote since we last looked. The terminal is as much its own as without us."""
        try:
            with open(log_path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._shown_bytes:
                    self._shown_bytes = 0  # rotated: it begins anew
                file.seek(self._shown_bytes)
                data = file.read()
        except FileNotFoundError:
            return
        self._shown_bytes += len(data)
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def waits_for(status: dict[str, Any]) -> str:
    """Return what is going on while the agent says nothing."""
    running = [one for backend in status["backends"] for one in backend["running"]]
    waiting = status["queue"]["queued"]
    parts = [f"{one['model']} answers since {span_of(one['since_s'])}, {one['tokens']} tokens so far" for one in running]
    parts += [f"{backend['name']}: {backend['state']}" for backend in status["backends"] if backend["state"] != "ready"]
    parts += [f"{waiting} waiting"] if waiting else []
    return ("; ".join(parts) or "it runs, and has asked nothing by now") + " (^C ends it)"


# --- what it came to ----------------------------------------------------------------------------------------------------


def summary(result: Result, lines_to_keep: list[str]) -> str:
    """Return the figures, and the lines that keep the agent."""
    agent, totals = result.agent, result.totals
    lines = [
        "",
        f"ended     {agent['verdict'] or 'interrupted'} after {span_of(result.took_s)}",
        f"memory    peak {size_of(agent['peak_bytes'])} of {size_of(agent['cap_bytes'])} ({result.guarantee})",
        f"requests  {_counted(totals)}",
    ]
    if totals.get("answered"):
        waited, generated = span_of(totals["waited_s"]), span_of(totals["generated_s"])
        lines.append(f"time      {waited} waited, {generated} generated, {totals['tokens']} tokens")
    if agent["verdict"] != "finished" and agent["detail"]:
        lines += ["detail", *(f"  {printable(line)}" for line in agent["detail"].splitlines())]
    if agent["verdict"] == "failed:exec":
        return "\n".join(lines)
    if str(agent["verdict"]).startswith("oom:"):
        lines.append(f"it needs more: --memory {2 * agent['cap_bytes'] // MB}MB")
    elif not totals["asked"] and agent["verdict"] in {None, "finished"}:
        lines += ["", *NOTHING_ASKED]
    return "\n".join([*lines, "", "to keep it:", "", *(f"  {line}" for line in lines_to_keep)])


# An SDK reads OLLAMA_HOST; a script that names Ollama's own port has to be told, or Ollama moved.
NOTHING_ASKED = (
    "It asked nothing here. A program finds us by OLLAMA_HOST, or by the socket in",
    "AI_SUPERVISOR_SOCKET; one that names localhost:11434 itself goes past us:",
    "change that line, or see ai-supervisor takeover --help.",
)


def _counted(totals: dict[str, Any]) -> str:
    words = ("answered", "cached", "refused", "failed", "cancelled")
    parts = [f"{totals[word]} {word}" for word in words if totals.get(word)]
    return f"{totals['asked']} asked" + (f": {', '.join(parts)}" if parts else "")


def kept_lines(
    words: list[str], url: str, *, has_config: bool, env: Sequence[str] = (), peak_bytes: int | None = None
) -> list[str]:
    """Return what to type to make this command an agent for good, from the first config to the start of a daemon.

    The program is named with its folder: a daemon has not the PATH of this shell.
    """
    name = next((Path(word).stem for word in reversed(words) if Path(word).suffix in {".py", ".sh", ".js"}), Path(words[0]).name)
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", name).strip("-_") or "my-agent"
    program = words[0] if "/" in words[0] else shutil.which(words[0]) or words[0]
    options = ["--class", "opus", "--cwd", os.getcwd()]
    if peak_bytes is not None and peak_bytes * ROOM > CLASS_DEFAULTS["opus"].memory_bytes:
        options += ["--memory", f"{math.ceil(peak_bytes * ROOM / (100 * MB)) * 100}MB"]
    # A variable that was passed on by its name is perhaps a secret: the shell puts it in, and nobody reads it here.
    given = [f"--env {shlex.quote(one)}" if "=" in one else f'--env {one}="${one}"' for one in env]
    added = " ".join(["ai-supervisor agents add", safe, shlex.join(options), *given, "--", shlex.join([program, *words[1:]])])
    if has_config:
        return [added]
    init = ["ai-supervisor", "config", "init", *(() if url == DEFAULT_OLLAMA else ("--ollama", url))]
    return [shlex.join(init), added, "ai-supervisor run"]
