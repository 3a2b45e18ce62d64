"""Decides what a backup is made of, and where each part goes when it is restored. Knows no archives and no databases.

    manifest.json        what is in it, with sizes and checksums; the first thing that is read, and all that is believed
    journal.db           requests, answers, agents, events, as they were at one moment
    config/...           the config and what it includes
    secrets/...          only where asked: what tokens are made with, and the agents' env_files

The cache is not in it: it is made again by itself, and may be 11 GB.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import msgspec

from supervisord_ai.errors import UsageError

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 4_000_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@ -]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+@ -]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What a file of a backup is."""

    JOURNAL = "journal"
    CONFIG = "config"
    INCLUDED = "included"
    SECRET = "secret"  # noqa: S105 - a word
    ENV_FILE = "env_file"


SECRETS = frozenset({Kind.SECRET, Kind.ENV_FILE})


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a backup: its name in there, and where it lay."""

    name: str
    kind: Kind
    place: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. `state_dir` and `config` are where they were; `schema` is the journal's."""

    version: str
    made_wall: float
    schema: int
    state_dir: str
    config: str
    files: tuple[Item, ...] = ()
    format: int = FORMAT

@dataclass(frozen=True, slots=True)
class _Format:
    """The one field that every version's manifest has."""

    format: int


def encode(manifest: Manifest) -> bytes:
    """Return it as it stands in the archive."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """Read what an archive says of itself. Nothing in it is believed that could lead outside of where it is restored.

    Raises:
        UsageError: it is no backup of ours, or of a later version.
    """
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found != FORMAT:
            raise UsageError(f"this backup has format {found}, this version knows {FORMAT}: another ai-supervisor made it")
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as exc:
        raise UsageError(f"this is no backup of ai-supervisor: its manifest is not right ({exc})") from exc
    names = {item.name for item in manifest.files}
    paths = (manifest.state_dir, manifest.config)
    if len(names) != len(manifest.files) or not all(map(_is_right, manifest.files)) or not all(map(_is_plain, paths)):
        raise UsageError("this is no backup of ai-supervisor: its manifest names what it may not")
    return manifest


def _is_right(item: Item) -> bool:
    is_named = _NAME.fullmatch(item.name) is not None and _is_plain(item.place)
    return is_named and item.bytes >= 0 and _SHA256.fullmatch(item.sha256) is not None


def _is_plain(path: str) -> bool:
    return path.startswith("/") and "\0" not in path and posixpath.normpath(path) == path


def name_of(kind: Kind, place: str, config: str, number: int) -> str:
    """Return what a file is called in the archive: below the config's folder as it lies there, else by a number."""
    match kind:
        case Kind.JOURNAL:
            return "journal.db"
        case Kind.SECRET:
            return "secrets/secret"
        case Kind.ENV_FILE:
            return f"secrets/env_file-{number}"
        case Kind.CONFIG:
            return "config/config.toml"
        case Kind.INCLUDED:
            below = _below(place, posixpath.dirname(config))
            name = None if below is None else f"config/{below}"
            return name if name is not None and _NAME.fullmatch(name) and below != "config.toml" else f"elsewhere/{number}.toml"
        case _:
            assert_never(kind)


def destination(item: Item, manifest: Manifest, into: str | None) -> str | None:
    """Return where a file goes: where it was, or its place below `into`; None where it has none there.

    An env_file, and what was included from elsewhere, is named in the config by its whole path, so below another folder it
    would be read by nobody.
    """
    if into is None:
        return f"{manifest.state_dir}/journal.db" if item.kind is Kind.JOURNAL else item.place
    match item.kind:
        case Kind.JOURNAL:
            return f"{into}/state/journal.db"
        case Kind.SECRET:
            return f"{into}/state/secret"
        case Kind.CONFIG:
            return f"{into}/config.toml"
        case Kind.INCLUDED if item.name.startswith("config/"):
            return f"{into}/{item.name.removeprefix('config/')}"
        case _:
            return None


def mode_of(kind: Kind) -> int:
    """Return the mode that a restored file has. A config may name keys, so it is not for everybody either."""
    return 0o640 if kind in {Kind.CONFIG, Kind.INCLUDED} else 0o600


def in_the_way(destinations: Iterable[tuple[str, str]], digest_at: Callable[[str], str | None]) -> list[str]:
    """Return the places (of (place, sha256)) at which something else is already. `digest_at`: None where nothing is."""
    return [place for place, digest in destinations if digest_at(place) not in {None, digest}]


def _below(path: str, folder: str) -> str | None:
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None
