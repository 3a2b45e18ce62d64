"""How an engine is started: the embedded one, which is our own program, or the owner's `command`, such as `ollama serve`."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisord_ai.core.policies import BackendSpec, ModelsPolicy
from supervisord_ai.core.serving import engine_environ, engine_name
from supervisord_ai.host.process import Account


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """One engine, as it is started each time. `url` and `secret` are what a client needs; they stay the same over restarts.

    `environ` is its whole environment. `secret` is said to it on its standard input, which is then its lifeline: it ends at
    end of file. An engine without a secret knows nothing of us; it is ended by a signal. `user` None: whoever we are.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    url: str
    secret: str | None = None
    user: str | None = None
    cap_bytes: int | None = None

    @property
    def digest(self) -> str:
        """Stands for what a life of it is made of, in the journal; its cap may change while it runs."""
        made_of = self.argv, sorted(self.environ.items()), self.user
        return hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]

    @property
    def socket(self) -> Path | None:
        """The Unix socket it makes, if it makes one."""
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None


def embedded_launch(
    backend: str,
    *,
    socket: Path,
    environ: Mapping[str, str],
    slots: int = 2,
    threads: int | None = None,
    model_file: Path | None = None,
    ledger: Path | None = None,
) -> EngineLaunch:
    """Return the launch of the embedded engine. `threads` None: all cores but one. `ledger`: where it counts its calls.

    It has no cap: it serves the one small model that it came with.
    """
    words = [sys.executable, "-m", "supervisord_ai.engine", "--socket", str(socket), "--slots", str(slots)]
    for option, value in (("--threads", threads), ("--model-file", model_file), ("--ledger", ledger)):
        if value is not None:
            words += [option, str(value)]
    kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "XDG_DATA_HOME", "AI_SUPERVISOR_ENGINE_DIR")
    return EngineLaunch(
        name=engine_name(backend),
        argv=tuple(words),
        # Our own program: it needs to find its packages, and nothing of what we were told in confidence.
        environ={name: environ[name] for name in kept if name in environ},
        url=f"unix://{socket}",
        # In an argument or the environment it would be there for every process of this user to read.
        secret=secrets.token_hex(16),
    )


def command_launch(
    spec: BackendSpec, *, models: ModelsPolicy, environ: Mapping[str, str], account: Account, user: str | None, cap_bytes: int
) -> EngineLaunch:
    """Return the launch of a backend's `command`, with the environment that the gateway assumes."""
    return EngineLaunch(
        name=engine_name(spec.name),
        argv=spec.command,
        environ=engine_environ(environ, spec, models, home=account.home, user=account.name),
        url=spec.url,
        user=user,
        cap_bytes=cap_bytes,
    )
