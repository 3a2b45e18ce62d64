"""`backup` and `restore`: one file with everything that cannot be made again, and the way from it to a daemon that goes on.

    backup    the journal by SQLite's own backup, of one moment, while the daemon writes on -> checksums -> one archive, 0600
    restore   nobody runs there, nothing is in the way -> unpacked and checked beside its place -> tables of this version,
              agents that ran then are nobody's -> put where it belongs, the journal last

Whatever fails before the last step has changed nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from supervisord_ai import __version__
from supervisord_ai.cli.door import surroundings
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.cli.progress import working
from supervisord_ai.cli.screen import printable, size_of
from supervisord_ai.config import Config, load
from supervisord_ai.config.editing import with_folders
from supervisord_ai.core import places
from supervisord_ai.core.backup import (
    MANIFEST,
    MANIFEST_BYTES_MAX,
    SECRETS,
    Item,
    Kind,
    Manifest,
    decode,
    destination,
    encode,
    in_the_way,
    mode_of,
    name_of,
)
from supervisord_ai.errors import HostFault, UsageError
from supervisord_ai.host import archive
from supervisord_ai.host.state_folder import StateFolder, holder_of
from supervisord_ai.store import copies

SUFFIX = ".tar.zst"


def run(args: Namespace) -> int:
    told = _backup(args) if args.action == "backup" else _restore(args)
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        for line in told["said"]:
            print(printable(line))
    return Exit.GOOD


# --- backup -------------------------------------------------------------------------------------------------------------


class _Noted(DiskFiles):
    """The files of a config, and which of them were read."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        data = self.texts[path] = super().read(path)
        return data


def _backup(args: Namespace) -> dict[str, Any]:
    around = surroundings()
    path = os.path.abspath(places.config_path(around, args.config))
    if not os.path.exists(path):
        raise UsageError(f"there is no {path}: --config names the config whose state is to be kept")
    noted = _Noted()
    config = load(path, noted, around)
    target = Path(args.file or _usual_name()).absolute()
    if not target.name.endswith(SUFFIX):
        raise UsageError(f"{target.name}: a backup is a {SUFFIX} file")
    with _beside(target.parent) as folder, working(f"writing {target.name}"):
        contents = list(_contents(config, path, noted.texts, folder, with_secrets=args.secrets))
        schema = copies.schema_of(folder / copies.JOURNAL_FILE) if (folder / copies.JOURNAL_FILE).exists() else 0
        manifest = Manifest(__version__, time.time(), schema, config.daemon.state_dir, path, tuple(item for item, _ in contents))
        members: list[tuple[str, bytes | Path]] = [(MANIFEST, encode(manifest)), *((item.name, file) for item, file in contents)]
        size = archive.write(target, members)
    said = [f"{target}: {size_of(size)}, {len(contents)} files, for you alone (mode 600)"]
    if schema == 0:
        said.append(f"there is no journal in {config.daemon.state_dir} yet: only the config is in it")
    said.append(
        "the agents' env_files and the secret that tokens are made with are in it: keep it as you keep those"
        if args.secrets
        else "left out: env_files and the secret that tokens are made with (--secrets takes them too), the cache, agents' logs"
    )
    said.append(f"to go back to it: ai-supervisor restore {target}   (--into DIR: beside what is there)")
    return {"file": str(target), "bytes": size, "schema": schema, "files": [item.name for item, _ in contents], "said": said}


def _usual_name() -> str:
    return f"ai-supervisor-{socket.gethostname()}-{time.strftime('%Y%m%d-%H%M%S')}{SUFFIX}"


def _contents(
    config: Config, main: str, texts: dict[str, bytes], folder: Path, *, with_secrets: bool
) -> Iterator[tuple[Item, Path]]:
    """Yield every file with a copy of it that nobody changes meanwhile."""
    state = Path(config.daemon.state_dir)
    copies.copy(state / copies.JOURNAL_FILE, folder / copies.JOURNAL_FILE)
    if (folder / copies.JOURNAL_FILE).exists():
        yield _item(Kind.JOURNAL, str(state / copies.JOURNAL_FILE), main, 0, folder / copies.JOURNAL_FILE)
    for number, (place, data) in enumerate(texts.items()):
        file = folder / f"config-{number}"
        file.write_bytes(data)
        yield _item(Kind.CONFIG if place == main else Kind.INCLUDED, os.path.abspath(place), main, number, file)
    if not with_secrets:
        return
    env_files = sorted({spec.env_file for spec in config.roster.agents.values() if spec.env_file is not None})
    wanted = [(Kind.SECRET, str(state / "secret")), *((Kind.ENV_FILE, place) for place in env_files)]
    for number, (kind, place) in enumerate(wanted):
        if kind is Kind.SECRET and not os.path.exists(place):
            continue  # made by the first start
        file = folder / f"secret-{number}"
        file.write_bytes(DiskFiles().read(place))
        yield _item(kind, place, main, number, file)


def _item(kind: Kind, place: str, main: str, number: int, file: Path) -> tuple[Item, Path]:
    digest = archive.digest_of(file)
    assert digest is not None
    return Item(name_of(kind, place, main, number), kind, place, file.stat().st_size, digest), file


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder for us alone, on the same disk; gone afterwards."""
    try:
        made = Path(tempfile.mkdtemp(prefix=".ai-supervisor-", dir=folder))
    except OSError as exc:
        raise HostFault(f"{folder}: {exc.strerror}") from exc
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


# --- restore ------------------------------------------------------------------------------------------------------------


def _restore(args: Namespace) -> dict[str, Any]:
    into = None if args.into is None else os.path.abspath(args.into)
    source = Path(args.file)
    with working(f"reading {source.name}"), archive.reading(source) as reading:
        manifest = decode(reading.first(MANIFEST, MANIFEST_BYTES_MAX))
        goals = {item.name: where for item in manifest.files if (where := destination(item, manifest, into)) is not None}
        state = manifest.state_dir if into is None else f"{into}/state"
        _refuse(manifest, goals, state)
        # Held, so that no daemon starts in the middle.
        with closing(StateFolder(Path(state))), _beside(Path(state)) as folder:
            files = {item.name: folder / str(number) for number, item in enumerate(manifest.files)}
            reading.unpack({item.name: (item.bytes, item.sha256, files[item.name]) for item in manifest.files})
            _settle(manifest, files, into)
            _put(manifest, goals, files)
    return {
        "state_dir": state,
        "config": manifest.config if into is None else f"{into}/config.toml",
        "schema": manifest.schema,
        "version": manifest.version,
        "made_wall": manifest.made_wall,
        "files": sorted(goals.values()),
        "said": list(_words(manifest, goals, into)),
    }


def _refuse(manifest: Manifest, goals: dict[str, str], state: str) -> None:
    """Refuse to overwrite. A config that is there as it was is not in the way; a journal, or what is left of one, always is.

    Raises:
        UsageError: with what to type instead.
    """
    pid = holder_of(Path(state))
    if pid is not None:
        raise UsageError(f"a daemon (pid {pid}) runs on {state}: ai-supervisor stop, or restore it elsewhere with --into DIR")
    wanted = []
    for item in manifest.files:
        if (place := goals.get(item.name)) is None:
            continue
        if item.kind is Kind.JOURNAL:
            wanted += [(place, ""), (f"{place}-wal", "")]
        else:
            wanted.append((place, item.sha256))
    taken = in_the_way(wanted, lambda place: archive.digest_of(Path(place)))
    if taken:
        others = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UsageError(
            f"{taken[0]}{others} is there already, and is not overwritten: move it away (mv {taken[0]} {taken[0]}.old), "
            "or restore it elsewhere with --into DIR"
        )


def _settle(manifest: Manifest, files: dict[str, Path], into: str | None) -> None:
    """Make what was unpacked ready for its place."""
    for item in manifest.files:
        match item.kind:
            case Kind.JOURNAL:
                copies.settle(files[item.name], time.time())
            case Kind.CONFIG if into is not None:
                text = files[item.name].read_text()
                folders = {"runtime_dir": f"{into}/run", "state_dir": f"{into}/state", "log_dir": f"{into}/log"}
                files[item.name].write_text(with_folders(text, folders))
            case _:
                pass


def _put(manifest: Manifest, goals: dict[str, str], files: dict[str, Path]) -> None:
    """The journal last: as long as it is not there, the same command can be typed again."""
    for item in sorted(manifest.files, key=lambda item: item.kind is Kind.JOURNAL):
        where = goals.get(item.name)
        if where is not None and not os.path.exists(where):
            archive.put(files[item.name], Path(where), mode_of(item.kind))


def _words(manifest: Manifest, goals: dict[str, str], into: str | None) -> Iterator[str]:
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.made_wall))
    yield f"restored what ai-supervisor {manifest.version} had on {made}:"
    for place in sorted(goals.values()):
        yield f"    {place}"
    for item in manifest.files:
        if item.name not in goals:
            yield f"not restored, since the config names it by its whole path: {item.place}"
    if not any(item.kind in SECRETS for item in manifest.files):
        yield "no secrets are in it: env_files are yours to bring, and every agent gets a new token"
        yield "    (you hand it on to external ones: ai-supervisor agents token NAME)"
    if into is None:
        yield f"start it: ai-supervisor run --config {manifest.config}   (or its service)"
    else:
        yield f"its folders in the config are below {into} now; addresses in [listen] and [[ollama]] are as they were"
        yield f"start it: ai-supervisor run --config {into}/config.toml"
