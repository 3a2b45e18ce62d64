"""An agent that does what a test tells it, against a real daemon: what the hostile tests are played with.

The puppet is an ordinary agent of the roster: its user, its cage, its environment. It runs the code that comes over a socket of
its own, so the test says what an attacker would do, and it is done with what an attacker has.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.harness import ROOT, Daemon, ask, eventually, ollama_double, running_daemon

MODEL = "llama3.2:3b"
HAS_CAGES = os.geteuid() == 0 and os.access("/sys/fs/cgroup/memory", os.W_OK)

PUPPET = '''
import json, os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
listener.listen(64)

def whole(s, raw, half=False):
    s.settimeout(20)
    got = b""
    try:
        s.sendall(raw)
        if half:
            s.shutdown(socket.SHUT_WR)
        while piece := s.recv(65536):
            got += piece
    except OSError as exc:
        got += b"" if isinstance(exc, (BrokenPipeError, ConnectionResetError)) else repr(exc).encode()
    return got.decode("latin-1")

def unix(path=None):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path or os.environ["AI_SUPERVISOR_SOCKET"])
    return s

def tcp():
    return socket.create_connection(("127.0.0.1", int(os.environ["OLLAMA_HOST"].rpartition(":")[2].partition("/")[0])), 20)

def say(raw, half=False, path=None):
    return whole(unix(path), raw, half)

def say_tcp(raw):
    return whole(tcp(), raw)

def post(path, body, more=b""):
    head = f"POST {path} HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: {len(body)}\\r\\nConnection: close\\r\\n"
    return head.encode() + more + b"\\r\\n" + body

def get(path, more=b""):
    return f"GET {path} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n".encode() + more + b"\\r\\n"

while True:
    peer, _ = listener.accept()
    with peer, peer.makefile("rwb") as stream:
        scope = dict(globals())
        try:
            exec(json.loads(stream.readline()), scope)
            told = scope.get("told")
        except BaseException as exc:
            told = {"error": repr(exc)}
        stream.write(json.dumps(told).encode() + b"\\n")
'''


@dataclass(frozen=True)
class Puppet:
    """One agent of the daemon."""

    name: str
    socket: Path

    def run(self, code: str, **given: Any) -> Any:
        """Run code in the agent; return what it left in `told`. `given` are variables of it; bytes are welcome."""
        words = "".join(f"{name} = {value!r}\n" for name, value in given.items())
        with socket.socket(socket.AF_UNIX) as peer, peer.makefile("rwb") as stream:
            peer.settimeout(60)
            peer.connect(str(self.socket))
            stream.write(json.dumps(words + code).encode() + b"\n")
            stream.flush()
            told = json.loads(stream.readline())
        assert not (isinstance(told, dict) and "error" in told and len(told) == 1), told
        return told

    def say(self, raw: bytes, *, half: bool = False) -> str:
        """Send bytes to the agents' socket; return all that comes until the end."""
        return str(self.run("told = say(raw, half)", raw=raw, half=half))

    def say_tcp(self, raw: bytes) -> str:
        return str(self.run("told = say_tcp(raw)", raw=raw))

    def post(self, path: str, body: bytes, more: bytes = b"") -> tuple[int, str]:
        """Ask on the agents' socket; return status and body."""
        return parted(str(self.run("told = say(post(path, body, more))", path=path, body=body, more=more)))

    def ask(self, path: str, **fields: Any) -> tuple[int, str]:
        return self.post(path, json.dumps({"model": MODEL, **fields}).encode())


def parted(answer: str) -> tuple[int, str]:
    """The status and the body (as framed) of the first answer."""
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 "), answer[:200]
    return int(head.split()[1]), body


@dataclass(frozen=True)
class Stage:
    """A daemon with its agents, before the double."""

    daemon: Daemon
    ollama: str
    puppets: dict[str, Puppet]

    @property
    def folder(self) -> Path:
        return self.daemon.folder

    def loaded(self) -> list[str]:
        return [model["name"] for model in ask(self.daemon.llm, "/api/ps").json["models"]]

    def whoami(self, puppet: str) -> Any:
        return json.loads(self.puppets[puppet].run("told = say(get('/supervisor/v1/whoami'))").partition("\r\n\r\n")[2])


def roster(folder: Path, names: tuple[str, ...]) -> str:
    user = 'user = "nobody"' if os.geteuid() == 0 else ""
    agents = "".join(
        f"""
[[agents]]
name = "{name}"
class = "sonnet"
command = ["/usr/bin/env", "python3", "-I", "-S", "{folder}/puppet.py", "{folder}/out/{name}.sock"]
"""
        for name in names
    )
    return f'[class.sonnet]\nstart = "100ms"\nceiling = 3\nrate = "100000/min"\ninject = ["ollama", "openai"]\n{user}\n{agents}'


@contextmanager
def staged(*names: str, extra: str = "", arguments: tuple[str, ...] = ()) -> Iterator[Stage]:
    """A daemon up with these puppets. Its folder can be entered by the agents' user, which pytest's own cannot."""
    with tempfile.TemporaryDirectory(prefix="ai-hostile-") as name, ollama_double("--model", MODEL, "--tokens", "3") as url:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        (folder / "puppet.py").write_text(PUPPET)
        more = roster(folder, names) + extra
        with running_daemon(folder, ollama=url, extra=more, tcp='["127.0.0.1:0"]', arguments=arguments) as daemon:
            puppets = {each: Puppet(each, folder / "out" / f"{each}.sock") for each in names}
            eventually(lambda: all(puppet.socket.exists() for puppet in puppets.values()), what="the agents are up")
            eventually(lambda: all(a["state"] == "running" for a in daemon.agents().values()), what="the agents run")
            yield Stage(daemon, url, puppets)


__all__ = ["HAS_CAGES", "MODEL", "ROOT", "Puppet", "Stage", "parted", "staged"]
