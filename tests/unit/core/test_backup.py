"""What a backup calls its files, where each goes when it is restored, and which manifests are not believed."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from supervisord_ai.core.backup import Item, Kind, Manifest, decode, destination, encode, in_the_way, mode_of, name_of
from supervisord_ai.errors import UsageError

CONFIG = "/etc/ai-supervisor/config.toml"
SHA = "0123456789abcdef" * 4


def item(kind: Kind = Kind.JOURNAL, name: str = "journal.db", place: str = "/var/lib/ai/journal.db", **more: object) -> Item:
    return replace(Item(name, kind, place, 7, SHA), **more)  # type: ignore[arg-type]


def manifest(*files: Item, **more: object) -> Manifest:
    return replace(Manifest("1.0", 1e9, 3, "/var/lib/ai", CONFIG, files), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "place", "name"),
    [
        (Kind.JOURNAL, "/var/lib/ai/journal.db", "journal.db"),
        (Kind.SECRET, "/var/lib/ai/secret", "secrets/secret"),
        (Kind.ENV_FILE, "/home/ann/keys.env", "secrets/env_file-4"),
        (Kind.CONFIG, CONFIG, "config/config.toml"),
        (Kind.INCLUDED, "/etc/ai-supervisor/agents.d/one.toml", "config/agents.d/one.toml"),
        # From elsewhere, of a name that no archive may hold, or of the one that the config itself has: a number.
        (Kind.INCLUDED, "/home/ann/agents.toml", "elsewhere/4.toml"),
        (Kind.INCLUDED, "/etc/ai-supervisor-2/one.toml", "elsewhere/4.toml"),
        (Kind.INCLUDED, "/etc/ai-supervisor/.hidden.toml", "elsewhere/4.toml"),
        (Kind.INCLUDED, "/etc/ai-supervisor/config.toml", "elsewhere/4.toml"),
    ],
)
def test_a_file_is_called_in_the_archive_as_it_lies_beside_the_config_or_by_a_number(kind: Kind, place: str, name: str) -> None:
    assert name_of(kind, place, CONFIG, 4) == name


@pytest.mark.parametrize(
    ("what", "below"),
    [
        (item(), "/new/state/journal.db"),
        (item(Kind.SECRET, "secrets/secret", "/var/lib/ai/secret"), "/new/state/secret"),
        (item(Kind.CONFIG, "config/config.toml", CONFIG), "/new/config.toml"),
        (item(Kind.INCLUDED, "config/agents.d/one.toml", "/etc/ai-supervisor/agents.d/one.toml"), "/new/agents.d/one.toml"),
        # Both are named by their whole path in the config: below another folder nobody would read them.
        (item(Kind.INCLUDED, "elsewhere/4.toml", "/home/ann/agents.toml"), None),
        (item(Kind.ENV_FILE, "secrets/env_file-4", "/home/ann/keys.env"), None),
    ],
)
def test_a_file_goes_back_where_it_was_or_to_its_place_below_another_folder(what: Item, below: str | None) -> None:
    assert destination(what, manifest(), None) == what.place
    assert destination(what, manifest(), "/new") == below


def test_the_journal_goes_where_the_state_of_the_manifest_is() -> None:
    assert destination(item(place="/elsewhere/copy.db"), manifest(), None) == "/var/lib/ai/journal.db"


def test_only_the_config_may_be_read_by_its_group() -> None:
    assert {kind: mode_of(kind) for kind in Kind} == {
        Kind.JOURNAL: 0o600,
        Kind.SECRET: 0o600,
        Kind.ENV_FILE: 0o600,
        Kind.CONFIG: 0o640,
        Kind.INCLUDED: 0o640,
    }


def test_what_is_the_same_or_not_there_is_not_in_the_way() -> None:
    there = {"/a": SHA, "/b": "f" * 64}
    assert in_the_way([("/a", SHA), ("/b", SHA), ("/c", SHA)], there.get) == ["/b"]


def test_a_manifest_is_read_as_it_was_written() -> None:
    written = manifest(item(), item(Kind.CONFIG, "config/config.toml", CONFIG))
    assert decode(encode(written)) == written
    assert encode(written).endswith(b"}\n")


@pytest.mark.parametrize(
    "wrong",
    [
        manifest(item(), item()),  # one name twice
        manifest(item(name="../journal.db")),
        manifest(item(name="/journal.db")),
        manifest(item(name="config//one.toml")),
        manifest(item(place="var/lib/ai/journal.db")),
        manifest(item(place="/var/lib/../../etc/passwd")),
        manifest(item(place="/var/lib/ai/journal.db\0")),
        manifest(item(bytes=-1)),
        manifest(item(sha256="0" * 63)),
        manifest(item(sha256="G" * 64)),
        manifest(state_dir="state"),
        manifest(config="/etc/../etc/c.toml"),
    ],
)
def test_a_manifest_that_could_lead_outside_is_no_backup(wrong: Manifest) -> None:
    with pytest.raises(UsageError, match="names what it may not"):
        decode(encode(wrong))


def test_an_empty_file_is_a_file() -> None:
    assert decode(encode(manifest(item(bytes=0)))).files[0].bytes == 0


def test_a_later_format_is_said_to_be_another_versions() -> None:
    with pytest.raises(UsageError, match="this backup has format 2, this version knows 1"):
        decode(encode(manifest(format=2)))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format": 1}', msgspec.json.encode({"format": "1"})])
def test_what_is_no_manifest_is_no_backup(data: bytes) -> None:
    with pytest.raises(UsageError, match="its manifest is not right"):
        decode(data)


def test_a_manifest_can_be_read_by_people() -> None:
    lines = encode(manifest()).splitlines()
    assert (lines[0], lines[-1]) == (b"{", b"}")
    assert lines[1].startswith(b'  "')
