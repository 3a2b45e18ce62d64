"""Judges the files that are ours: whose they are, who may look into them, and on what they lie.

A file that was never made is no finding, except a folder that an include names: the daemon makes its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisord_ai.core.doctor.finding import Deed, Finding, Fix, Severity, good

WRITABLE = 0o022  # by the group and by all
VISIBLE = 0o077


@dataclass(frozen=True, slots=True)
class FoundFile:
    """What stat(2) says, without following a link at the end."""

    uid: int
    mode: int  # permission bits alone
    is_link: bool = False
    bytes: int = 0
    modified_wall: float = 0.0


@dataclass(frozen=True, slots=True)
class OurFile:
    """A file or folder, as it should be: `mode` is what it has at most. `found` None: it is not there.

    `what` says for people what it is. `is_secret`: whoever reads it can pass for others. `is_wanted`: we miss it where it is not.
    """

    path: str
    what: str
    mode: int
    found: FoundFile | None
    is_secret: bool = False
    is_wanted: bool = False


@dataclass(frozen=True, slots=True)
class FilesFacts:
    """`uid` is who asks; files of another user are that user's to mend. `windows_path`: the state lies on a Windows drive."""

    uid: int
    files: tuple[OurFile, ...] = ()
    state_dir: str = ""
    state_file_system: str | None = None
    is_strange: bool = False  # a file system on which a database does not survive
    config: str | None = None  # None: there is none at all
    config_place: str = ""
    problems: tuple[str, ...] = ()


def check_files(facts: FilesFacts) -> tuple[Finding, ...]:
    """Return what is found."""
    return (_config(facts), *_state(facts), *(found for file in facts.files for found in _one(file, facts.uid)))


def _config(facts: FilesFacts) -> Finding:
    name = "files.config"
    if facts.config is None:
        fixes = Fix("a shell", ("ai-supervisor config init",)), Fix("or first, without one", ("ai-supervisor try -- CMD",))
        return Finding(name, Severity.NOTE, f"there is no config at {facts.config_place} yet", "", fixes)
    if not facts.problems:
        return good(name, f"{facts.config} is right")
    count = len(facts.problems)
    words = f"{facts.config} has {'a mistake' if count == 1 else f'{count} mistakes'}: {facts.problems[0]}"
    why = "a daemon that runs goes on with what it was; none can be started"
    return Finding(name, Severity.FAIL, words, why, (Fix("a shell", ("ai-supervisor config check",)),))


def _state(facts: FilesFacts) -> Iterator[Finding]:
    if facts.is_strange:
        words = f"the state folder {facts.state_dir} is on {facts.state_file_system}"
        why = "a Windows drive or a file server keeps no locks: a database does not survive there, and `run` refuses it"
        fix = Fix(facts.config or "config.toml", ("[daemon]", 'state_dir = "/var/lib/ai-supervisor"'))
        yield Finding("files.state", Severity.FAIL, words, why, (fix,))


def _one(file: OurFile, uid: int) -> Iterator[Finding]:
    name = f"files.{file.what.replace(' ', '-')}"
    found = file.found
    if found is None:
        if file.is_wanted:
            deed = Deed(file.path, file.mode, is_missing=True)
            words = f"{file.path} ({file.what}) is not there"
            yield Finding(name, Severity.NOTE, words, "", (Fix("a shell", (f"mkdir -m {file.mode:o} {file.path}",)),), deed)
        return
    if found.is_link and file.is_secret:
        words = f"{file.path} ({file.what}) is a link, which we do not follow"
        yield Finding(name, Severity.FAIL, words, "", (Fix("a shell", (f"ls -l {file.path}",), "put the file itself there"),))
        return
    if found.uid != uid:
        words = f"{file.path} ({file.what}) belongs to user {found.uid}, and {uid} asks"
        fix = Fix("a shell", (f"sudo chown {uid} {file.path}",))
        why = "a daemon of yours could not use it (if another user runs the daemon, ask as that user)"
        yield Finding(name, Severity.FAIL, words, why, (fix,))
        return
    forbidden = VISIBLE if file.is_secret else WRITABLE
    if found.mode & forbidden & ~file.mode:
        who = "be read by others" if file.is_secret and not found.mode & WRITABLE else "be written by others"
        deed = Deed(file.path, found.mode & file.mode)
        fix = Fix("a shell", (f"chmod {deed.mode:o} {file.path}",))
        reads, writes = "whoever reads it can pass for an agent, or has its keys", "whoever writes it decides what we run"
        why = reads if file.is_secret else writes
        yield Finding(name, Severity.FAIL, f"{file.path} ({file.what}) can {who} (mode {found.mode:o})", why, (fix,), deed)
        return
    yield good(name, f"{file.path} ({file.what}), mode {found.mode:o}")
