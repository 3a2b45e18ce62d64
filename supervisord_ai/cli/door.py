"""Asks the daemon over control.sock. Light on purpose: no trio, no config check, so that `status` is there at once."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any, NoReturn

from supervisord_ai.core import places
from supervisord_ai.core.own_unit import Unit, unit_of
from supervisord_ai.core.places import CONTROL_SOCKET, Surroundings
from supervisord_ai.errors import ConfigError, Denied, NotRunning, Problem, UsageError

ANSWER_WITHIN_S = 10.0
SILENT_S = 60.0  # of a stream of events, which says every 15 s that it is alive


def _dial(path: str, within_s: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(within_s)  # None: for ever
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class _Answer:
    """One answer being read. Not http.client, whose import takes longer than the daemon needs to answer.

    Raises (all of it): ValueError where it is no HTTP/1.1 answer, or is cut; OSError.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        version, _, rest = self._line().partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise ValueError(f"it says {version[:40]!r}")
        self.status = int(rest[:3])
        self._left = 0
        self._is_chunked = False
        while line := self._line():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                self._left = int(value)
            elif name.lower() == b"transfer-encoding":
                self._is_chunked = True

    def whole(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.pieces())

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body as they come."""
        rest = b""
        for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        if not self._is_chunked:
            yield self._exactly(self._left)
            return
        while size := int(self._line().partition(b";")[0], 16):
            yield self._exactly(size)
            self._line()

    def _line(self) -> bytes:
        line = self._file.readline(65_536)
        if not line.endswith(b"\n"):
            raise ConnectionResetError("it ended in the middle")
        return line.rstrip(b"\r\n")

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise ConnectionResetError("it ended in the middle")
        return data


class Door:
    """The control socket of one daemon."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, target: str) -> Any:
        """Return the JSON of a GET.

        Raises:
            NotRunning: nobody answers.
            Denied: the daemon said no.
            UsageError: it does not know what was asked for.
        """
        return self._ask("GET", target)[1]

    def health(self) -> tuple[bool, Any]:
        """Return whether all is well, and the daemon's words.

        Raises: as `get`.
        """
        status, told = self._ask("GET", "/healthz", also=(503,))
        return status == 200, told

    def text(self, target: str) -> str:
        """Return the body of a GET that is not JSON. Raises: as `get`."""
        with self._asked("GET", target, within_s=ANSWER_WITHIN_S) as answer:
            body = answer.whole()
        if answer.status != 200:
            self._told(answer.status, json.loads(body))
        return body.decode()

    def stop(self) -> int | None:
        """Tell the daemon to stop; return its pid. Raises: as `get`."""
        pid = self._ask("POST", "/v1/stop")[1].get("pid")
        return pid if isinstance(pid, int) else None

    def post(self, target: str, *, within_s: float | None = ANSWER_WITHIN_S) -> Any:
        """Return the JSON of a POST; `within_s` None waits as long as it takes.

        Raises:
            ConfigError: the daemon was told to read its config, which is wrong. Else as `get`.
        """
        return self._ask("POST", target, within_s=within_s)[1]

    def lines(self, target: str) -> Iterator[Any]:
        """Yield the JSON lines that a POST is answered with, as they come. Raises: as `get`."""
        with self._asked("POST", target, within_s=None) as answer:
            if answer.status >= 300:
                self._told(answer.status, json.loads(answer.whole()))
            for line in answer.lines():
                if line:
                    yield json.loads(line)

    def events(self, target: str, *, after: int | None = None) -> Iterator[Any]:
        """Yield events as they happen, those after that number first; ends with the daemon. Raises: as `get`."""
        seen = "" if after is None else f"Last-Event-ID: {after}\r\n"
        with self._asked("GET", target, seen, within_s=SILENT_S) as answer:
            if answer.status >= 300:
                self._told(answer.status, json.loads(answer.whole()))
            for line in answer.lines():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def agent(self, name: str) -> Any:
        """Return everything about one agent. Raises: as `get`."""
        return self.get(f"/v1/agents/{_quoted(name)}")

    def environment(self, name: str) -> dict[str, str]:
        """Return what an external agent is to be given. Raises: as `get`."""
        found: dict[str, str] = self.get(f"/v1/agents/{_quoted(name)}/environment")["environment"]
        return found

    def is_open(self) -> bool:
        """Tell whether a daemon listens."""
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
            try:
                sock.connect(self.path)
            except OSError:
                return False
            return True

    def unit(self) -> Unit | None:
        """Return the unit that the daemon is of; None where systemd did not start it, or nobody listens."""
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
            try:
                sock.connect(self.path)
                pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
                with open(f"/proc/{pid}/cgroup") as file:
                    return unit_of(file.read())
            except OSError:
                return None

    def _ask(
        self, method: str, target: str, also: tuple[int, ...] = (), *, within_s: float | None = ANSWER_WITHIN_S
    ) -> tuple[int, Any]:
        with self._asked(method, target, within_s=within_s) as answer:
            told = json.loads(answer.whole())
        if answer.status < 300 or answer.status in also:
            return answer.status, told
        return self._told(answer.status, told)

    @contextmanager
    def _asked(self, method: str, target: str, headers: str = "", *, within_s: float | None) -> Iterator[_Answer]:
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}{headers}\r\n"
        with self._renamed(within_s), closing(_dial(self.path, within_s)) as sock, sock.makefile("rb") as file:
            sock.sendall(head.encode())
            yield _Answer(file)

    @contextmanager
    def _renamed(self, within_s: float | None) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, NotADirectoryError) as exc:
            raise NotRunning(self.path, what_to_type()) from exc
        except PermissionError as exc:
            what = "type it with sudo, or have root name you as `owner` in [daemon]"
            raise Denied(f"{self.path} is another user's ({exc.strerror}): {what}") from exc
        except TimeoutError as exc:
            raise Denied(f"the daemon at {self.path} does not answer within {within_s:.0f} s") from exc
        except (OSError, ValueError) as exc:
            raise Denied(f"what answers at {self.path} is not ai-supervisor: {exc}") from exc

    @staticmethod
    def _told(status: int, told: Any) -> NoReturn:
        """Raise what an error answer says."""
        words = told.get("error", told) if isinstance(told, dict) else told
        if status == 422 and isinstance(told, dict):
            raise ConfigError(tuple(Problem(**one) for one in told.get("problems", ())))
        if status == 404:
            raise UsageError(str(words))
        raise Denied(str(words))


def _quoted(name: str) -> str:
    from urllib.parse import quote  # noqa: PLC0415 - `status` names nobody

    return quote(name, safe="")


def surroundings() -> Surroundings:
    """Return who runs this command, and where."""
    return Surroundings(os.geteuid(), os.path.expanduser("~"), os.environ)


def what_to_type() -> str:
    """Return what starts a daemon here, or reaches one that runs elsewhere."""
    around = surroundings()
    of_root = places.default_places(Surroundings(0, "/root", {})).runtime_dir
    if around.uid != 0 and os.path.exists(f"{of_root}/{CONTROL_SOCKET}"):
        return f"root's daemon listens in {of_root}: type it with sudo"
    for is_user in (around.uid != 0, False):
        units = places.install_places(around, is_user=is_user).units
        if os.path.exists(f"{units}/ai-supervisor.service"):
            return f"start it with `{'systemctl --user' if is_user else 'systemctl'} start ai-supervisor`"
    if not os.path.exists(places.config_path(around, None)):
        return "begin with `ai-supervisor try -- CMD`, or write a config with `ai-supervisor config init`"
    return "start one with `ai-supervisor run`"


def open_door(args: Namespace) -> Door:
    """Return the door of the daemon that the config (`--config`, or where it usually is) belongs to.

    Raises:
        UsageError: there is a config and it cannot be read, so nobody knows where the socket is.
    """
    around = surroundings()
    if _means_the_systems(around, args.config):
        around = Surroundings(0, "/root", {})
    configured = None if around.env.get("AI_SUPERVISOR_RUNTIME_DIR") else _configured_runtime_dir(around, args.config)
    return Door(f"{places.runtime_dir(around, configured)}/{CONTROL_SOCKET}")


def _means_the_systems(around: Surroundings, asked: str | None) -> bool:
    """Tell whether a normal user without a daemon or config of their own asks: then about the system's, if it has one."""
    if around.uid == 0 or asked or around.env.get("AI_SUPERVISOR_CONFIG") or around.env.get("AI_SUPERVISOR_RUNTIME_DIR"):
        return False
    own = (places.config_path(around, None), f"{places.runtime_dir(around, None)}/{CONTROL_SOCKET}")
    return not any(map(os.path.exists, own)) and os.path.exists(places.default_places(Surroundings(0, "/root", {})).config)


def _configured_runtime_dir(around: Surroundings, asked: str | None) -> str | None:
    """Read one key of the config. All else in it may be wrong: the daemon may run with what it was before."""
    path = places.config_path(around, asked)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as exc:
        if asked:
            raise UsageError(f"there is no {path}") from exc
        return None
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from exc
    if not _may_say_runtime_dir(data):
        return None
    import re  # noqa: PLC0415

    import tomli  # noqa: PLC0415 - with re a fifth of the time of a command that may not need it

    text = data.decode("utf-8-sig", "replace")
    try:
        daemon = tomli.loads(text).get("daemon", {})
    except (ValueError, RecursionError) as exc:
        # The daemon runs with what the file said before. Whoever edits it at night wants to see it, not to be turned away.
        print(f"ai-supervisor: {path} is not TOML ({exc}): ai-supervisor config check", file=sys.stderr)
        line = re.search(r"""^\s*runtime_dir\s*=\s*["'](/[^"'\n]+)["']""", text, re.MULTILINE)
        return line[1] if line is not None else None
    found = daemon.get("runtime_dir") if isinstance(daemon, dict) else None
    return found if isinstance(found, str) and found else None


def _may_say_runtime_dir(data: bytes) -> bool:
    """Tell whether a config has to be parsed for this key: most have it in a comment alone, or not at all."""
    lines = (line for line in data.lower().splitlines() if not line.lstrip().startswith(b"#"))
    return any(b"runtime_dir" in line or b"\\u" in line for line in lines)
