"""Asks the daemon over control.sock. Light on purpose: no trio, no config check, so that `status` is there at once."""

from __future__ import annotations

import json
import os
import socket
from argparse import Namespace
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

from supervisord_ai.core import places
from supervisord_ai.core.places import CONTROL_SOCKET, Surroundings
from supervisord_ai.errors import Denied, NotRunning, UsageError

ANSWER_WITHIN_S = 10.0


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


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

    def stop(self) -> int | None:
        """Tell the daemon to stop; return its pid. Raises: as `get`."""
        pid = self._ask("POST", "/v1/stop")[1].get("pid")
        return pid if isinstance(pid, int) else None

    def agent(self, name: str) -> Any:
        """Return everything about one agent. Raises: as `get`."""
        return self.get(f"/v1/agents/{quote(name, safe='')}")

    def environment(self, name: str) -> dict[str, str]:
        """Return what an external agent is to be given. Raises: as `get`."""
        found: dict[str, str] = self.get(f"/v1/agents/{quote(name, safe='')}/environment")["environment"]
        return found

    def is_open(self) -> bool:
        """Tell whether a daemon listens."""
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
            try:
                sock.connect(self.path)
            except OSError:
                return False
            return True

    def _ask(self, method: str, target: str, also: tuple[int, ...] = ()) -> tuple[int, Any]:
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            body = answer.read()
            told = json.loads(body)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, NotADirectoryError) as exc:
            raise NotRunning(self.path) from exc
        except PermissionError as exc:
            raise Denied(f"{self.path} may not be opened by this user: {exc.strerror}") from exc
        except TimeoutError as exc:
            raise Denied(f"the daemon at {self.path} does not answer within {ANSWER_WITHIN_S:.0f} s") from exc
        except (OSError, HTTPException, ValueError) as exc:
            raise Denied(f"what answers at {self.path} is not ai-supervisor: {exc}") from exc
        finally:
            connection.close()
        if answer.status < 300 or answer.status in also:
            return answer.status, told
        words = told.get("error", told) if isinstance(told, dict) else told
        if answer.status == 404:
            raise UsageError(str(words))
        raise Denied(str(words))


def surroundings() -> Surroundings:
    """Return who runs this command, and where."""
    return Surroundings(os.geteuid(), os.path.expanduser("~"), os.environ)


def open_door(args: Namespace) -> Door:
    """Return the door of the daemon that the config (`--config`, or where it usually is) belongs to.

    Raises:
        UsageError: there is a config and it cannot be read, so nobody knows where the socket is.
    """
    around = surroundings()
    configured = None if around.env.get("AI_SUPERVISOR_RUNTIME_DIR") else _configured_runtime_dir(around, args.config)
    return Door(f"{places.runtime_dir(around, configured)}/{CONTROL_SOCKET}")


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
    import tomli  # noqa: PLC0415 - a fifth of the time of a command that may not need it

    try:
        daemon = tomli.loads(data.decode("utf-8-sig")).get("daemon", {})
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{path} is not TOML, so nobody knows where its control.sock is: {exc}") from exc
    found = daemon.get("runtime_dir") if isinstance(daemon, dict) else None
    return found if isinstance(found, str) and found else None
