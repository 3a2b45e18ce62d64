"""Every error the product raises, sorted by whose fault it is.

The fault decides what happens: a *caller's* fault is answered and never counted against Ollama; an *upstream* fault feeds
the breaker and may be retried when no byte came; an *owner's* fault is one clear line and exit code 2; a *host's* fault
degrades one duty. Errors carry data; the words for people are made where people read them.

Foreign exceptions (OSError, httpx, sqlite3, httptools) are renamed to these at the one door that touches the outside thing.
They are caught at four boundaries only: a connection, an agent, a slot job, a periodic duty.

None of them is a dataclass: every command imports this file, and the module that makes those (with `inspect`, `ast` and the
tokenizer) takes a quarter of the time that `status` has.
"""

from __future__ import annotations

from typing import NamedTuple


class SupervisorError(Exception):
    """The root of everything we raise on purpose."""


# --- the caller's fault, or a refusal of ours: answered on the caller's connection ------------------------------------


class Refused(SupervisorError):  # noqa: N818 - "refused" is the word of the story
    """A request that gets an error answer from us instead of one from Ollama.

    `message` is plain prose (never bare JSON such as `123` or `null`: ollama-python fails on those). The gateway shapes it
    for the face the caller used. `retry_after_s` becomes `Retry-After`, rounded up, at most 60. `close` ends the connection
    after the answer, because its framing can no longer be trusted. `allow` and `location` become the headers of those names
    (405 and OPTIONS; redirects of an unclean path).
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after_s: float | None = None,
        *,
        close: bool = False,
        allow: str | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.close = close
        self.allow = allow
        self.location = location

    def closing(self) -> Refused:
        """Return the same refusal for a connection that ends with it."""
        return Refused(self.status, self.message, self.retry_after_s, close=True, allow=self.allow, location=self.location)

    def __str__(self) -> str:
        return f"{self.status} {self.message}"


class PeerGone(SupervisorError):  # noqa: N818
    """The peer closed or reset the connection; there is nobody to answer."""


# --- upstream's fault: feeds the breaker -------------------------------------------------------------------------------


class UpstreamFault(SupervisorError):  # noqa: N818
    """Ollama did not do its part. `saw_bytes` is False when it may be asked again without anyone noticing."""

    saw_bytes = False


class UpstreamUnreachable(UpstreamFault):
    """No connection could be made, or it ended before one byte of an answer came.

    `was_sent`: Ollama had the whole request. Asking again then has a bound, because the request may be what took it down.
    """

    def __init__(self, what: str = "", *, was_sent: bool = False) -> None:
        super().__init__(what)
        self.was_sent = was_sent


class UpstreamCut(UpstreamFault):
    """The answer began and ended wrongly: a reset, or an end before the framing said so."""

    saw_bytes = True

    def __init__(self, after_bytes: int) -> None:
        super().__init__(after_bytes)
        self.after_bytes = after_bytes

    def __str__(self) -> str:
        return f"upstream cut after {self.after_bytes} bytes"


class UpstreamStalled(UpstreamFault):
    """Nothing came for longer than the limit."""

    def __init__(self, silent_s: float) -> None:
        super().__init__(silent_s)
        self.silent_s = silent_s

    def __str__(self) -> str:
        return f"upstream silent for {self.silent_s:.0f} s"


# --- the owner's fault: one line each, exit code 2 ---------------------------------------------------------------------


class Problem(NamedTuple):
    """One thing wrong in a config file, as people fix it: where, which key, what."""

    file: str
    line: int | None
    key: str
    what: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{where}: {self.key}: {self.what}" if self.key else f"{where}: {self.what}"


class ConfigError(SupervisorError):
    """Everything that is wrong with a config, at once. Nothing has been changed."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems)


class UsageError(SupervisorError):
    """The command cannot be carried out as it was typed; the text says what to type instead."""


class NotRunning(SupervisorError):  # noqa: N818
    """No daemon answers on the control socket; exit code 3."""

    def __init__(self, socket_path: str, what_to_type: str = "start one with `ai-supervisor run`") -> None:
        super().__init__(socket_path, what_to_type)
        self.socket_path = socket_path
        self.what_to_type = what_to_type

    def __str__(self) -> str:
        return f"no daemon answers at {self.socket_path}: {self.what_to_type}"


class Denied(SupervisorError):  # noqa: N818
    """The daemon said no to the owner's command; the text is its own. Exit code 4."""


class AlreadyRunning(SupervisorError):  # noqa: N818
    """Another daemon holds this state folder."""

    def __init__(self, state_dir: str, pid: int | None) -> None:
        super().__init__(state_dir, pid)
        self.state_dir = state_dir
        self.pid = pid

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid is not None else "another process"
        return f"{self.state_dir} is in use by {who}: stop it first (ai-supervisor stop), or give this one its own state_dir"


# --- the host's fault: one duty degrades, the rest goes on --------------------------------------------------------------


class HostFault(SupervisorError):  # noqa: N818
    """The operating system refused something; the text names the thing and the errno's words."""


class SpawnFailed(HostFault):
    """An agent could not be started. `verdict` is `failed:cage` or `failed:exec`."""

    def __init__(self, verdict: str, detail: str) -> None:
        super().__init__(verdict, detail)
        self.verdict = verdict
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.verdict}: {self.detail}"


class EngineFault(HostFault):
    """The embedded engine cannot do its part: not installed, no such model, llama.cpp refused. The text says what to do."""


class StoreFault(SupervisorError):  # noqa: N818
    """The journal or the cache cannot be used; the text names the file and what to do."""


class SchemaTooNew(StoreFault):
    """The file was written by a newer version; it is left untouched."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(path, found, known)
        self.path = path
        self.found = found
        self.known = known

    def __str__(self) -> str:
        return (
            f"{self.path} has schema {self.found}, this version knows up to {self.known}: "
            "use the newer ai-supervisor, or move the file away"
        )
