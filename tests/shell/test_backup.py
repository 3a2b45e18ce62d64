"""`backup` and `restore` on files, without a daemon: what is in a backup, and everything that must not be restored."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.core.backup import MANIFEST
from supervisord_ai.store.schema import JOURNAL, Schema, connect, migrate

Capture = pytest.CaptureFixture[str]
SECRET = b"s" * 32


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a config, a file that it includes, an env_file, a secret and a journal."""
    home = tmp_path / "home"
    (home / "agents.d").mkdir(parents=True)
    (home / "state").mkdir(mode=0o700)
    (home / "config.toml").write_text(
        f'include = ["agents.d/*.toml"]\n[daemon]\nruntime_dir = "{home}/run"\nstate_dir = "{home}/state"\n'
        '[class.worker]\nceiling = 3\npriority = 3\n'
    )
    (home / "agents.d" / "one.toml").write_text(
        f'[[agents]]\nname = "one"\nclass = "worker"\ncommand = ["true"]\nenv_file = "{home}/keys.env"\n'
    )
    (home / "keys.env").write_text("KEY=hush\n")
    (home / "state" / "secret").write_bytes(SECRET)
    journal(home / "state" / "journal.db")
    return home


def journal(path: Path, versions: int = len(JOURNAL.migrations)) -> None:
    schema = Schema(JOURNAL.page_size, JOURNAL.migrations[:versions])
    with closing(connect(path, schema)) as conn:
        migrate(conn, path, schema)
        conn.execute("INSERT INTO events (seq, at_wall, kind, detail) VALUES (1, 0, 'kept', '')")
        conn.execute(
            "INSERT INTO agents (name, generation, digest, pid, start_ticks, boot_id, run_tag, restarts) "
            "VALUES ('one', 3, 'd', 77, 5, 'this boot', 'one.3.x', 0)"
        )


def backup(home: Path, *words: str) -> Path:
    file = home.parent / "it.tar.zst"
    assert main(["backup", str(file), "--config", str(home / "config.toml"), *words]) == Exit.GOOD
    return file


def members(file: Path) -> dict[str, bytes]:
    data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(file.read_bytes())).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: read.read() for info in tar if (read := tar.extractfile(info)) is not None}


def forge(file: Path, names: dict[str, bytes]) -> None:
    """Write an archive of these members in the place of another."""
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    file.write_bytes(zstandard.compress(tarred.getvalue()))


def test_secrets_are_taken_only_when_asked_for(home: Path, capsys: Capture) -> None:
    file = backup(home)
    assert "left out: env_files and the secret" in capsys.readouterr().out
    plain = members(file)
    assert [*plain] == [MANIFEST, "journal.db", "config/config.toml", "config/agents.d/one.toml"]
    assert not any(SECRET in data or b"hush" in data for data in plain.values())
    file.unlink()
    secrets = members(backup(home, "--secrets"))
    assert (secrets["secrets/secret"], secrets["secrets/env_file-1"]) == (SECRET, b"KEY=hush\n")


def test_what_was_lost_is_put_back_as_it_was(home: Path, tmp_path: Path) -> None:
    file = backup(home, "--secrets")
    home.rename(tmp_path / "lost")
    assert main(["restore", str(file)]) == Exit.GOOD
    for name in ("config.toml", "agents.d/one.toml", "keys.env", "state/secret"):
        assert (home / name).read_bytes() == (tmp_path / "lost" / name).read_bytes()
    assert (home / "keys.env").stat().st_mode & 0o777 == 0o600
    assert (home / "state" / "journal.db").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(home / "state" / "journal.db")) as conn:
        assert conn.execute("SELECT kind FROM events").fetchall() == [("kept",)]
        # A process of another supervisor may be alive: it is nobody's here.
        row = conn.execute("SELECT pid, boot_id, run_tag, verdict, generation FROM agents").fetchone()
        assert row == (None, None, None, "lost-while-down", 3)
    assert main(["config", "check", "--config", str(home / "config.toml")]) == Exit.GOOD


def test_nothing_that_is_there_is_overwritten_and_a_config_that_is_the_same_is_not_in_the_way(
    home: Path, capsys: Capture
) -> None:
    file = backup(home)
    assert main(["restore", str(file)]) == Exit.USAGE
    assert f"mv {home}/state/journal.db {home}/state/journal.db.old" in capsys.readouterr().err
    for left in (home / "state").glob("journal.db*"):
        left.unlink()
    assert main(["restore", str(file)]) == Exit.GOOD
    for left in (home / "state").glob("journal.db*"):
        left.unlink()
    (home / "config.toml").write_text("# mine by now\n")
    assert main(["restore", str(file)]) == Exit.USAGE
    assert (home / "config.toml").read_text() == "# mine by now\n"
    assert not (home / "state" / "journal.db").exists()


def test_below_another_folder_the_config_names_that_folder_and_checks_well(home: Path, tmp_path: Path) -> None:
    file, other = backup(home), tmp_path / "other"
    assert main(["restore", str(file), "--into", str(other)]) == Exit.GOOD
    text = (other / "config.toml").read_text()
    assert f'state_dir = "{other}/state"' in text
    assert f"{home}/" not in text
    assert main(["config", "check", "--config", str(other / "config.toml")]) == Exit.GOOD
    assert (other / "agents.d" / "one.toml").exists()
    assert (other / "state").stat().st_mode & 0o777 == 0o700


def test_an_older_journal_gets_this_versions_tables(home: Path, tmp_path: Path) -> None:
    for left in (home / "state").glob("journal.db*"):
        left.unlink()
    journal(home / "state" / "journal.db", 1)
    file, other = backup(home), tmp_path / "other"
    assert main(["restore", str(file), "--into", str(other)]) == Exit.GOOD
    assert [one.name for one in (other / "state").iterdir() if "journal" in one.name] == ["journal.db"]
    with closing(sqlite3.connect(other / "state" / "journal.db")) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (len(JOURNAL.migrations),)
        assert conn.execute("SELECT kind FROM events").fetchall() == [("kept",)]


def test_a_newer_journal_is_refused_and_nothing_is_put_anywhere(home: Path, tmp_path: Path, capsys: Capture) -> None:
    with closing(sqlite3.connect(home / "state" / "journal.db")) as conn:
        conn.execute("PRAGMA user_version = 99")
    file, other = backup(home), tmp_path / "other"
    assert main(["restore", str(file), "--into", str(other)]) == Exit.NO
    assert "has schema 99" in capsys.readouterr().err
    assert sorted(one.name for one in other.rglob("*")) == ["lock", "state"]


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_backup_that_was_cut_is_refused(home: Path, tmp_path: Path, at: float) -> None:
    file = backup(home)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * at)])
    assert main(["restore", str(file), "--into", str(tmp_path / "other")]) == Exit.USAGE
    assert not (tmp_path / "other" / "config.toml").exists()


def test_a_changed_byte_an_extra_and_a_missing_member_are_refused(home: Path, tmp_path: Path, capsys: Capture) -> None:
    file, other = backup(home), str(tmp_path / "other")
    right = members(file)
    forged = {
        "is not what its manifest says": right | {"config/config.toml": right["config/config.toml"].replace(b"3", b"4")},
        "is not in its manifest": right | {"../../etc/passwd": b"x"},
        "it lacks config/agents.d/one.toml": {name: data for name, data in right.items() if "one" not in name},
    }
    for words, names in forged.items():
        forge(file, names)
        assert main(["restore", str(file), "--into", other]) == Exit.USAGE
        assert words in capsys.readouterr().err
        assert not (tmp_path / "other" / "config.toml").exists()


@pytest.mark.parametrize("change", ["name", "place", "state_dir", "format"])
def test_a_manifest_that_leads_elsewhere_is_not_believed(home: Path, tmp_path: Path, change: str, capsys: Capture) -> None:
    file = backup(home)
    right = members(file)
    manifest = json.loads(right[MANIFEST])
    match change:
        case "name":
            manifest["files"][0]["name"] = "../journal.db"
        case "place":
            manifest["files"][1]["place"] = "/etc/../root/x"
        case "state_dir":
            manifest["state_dir"] = "somewhere"
        case _:
            manifest["format"] = 2
    forge(file, right | {MANIFEST: json.dumps(manifest).encode()})
    assert main(["restore", str(file), "--into", str(tmp_path / "other")]) == Exit.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_no_backup_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "x.tar.zst").write_bytes(b"hello")
    assert main(["restore", str(tmp_path / "x.tar.zst")]) == Exit.USAGE
    assert "is no backup" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "none.tar.zst")]) == Exit.USAGE
    assert capsys.readouterr().err == f"ai-supervisor: there is no {tmp_path}/none.tar.zst\n"


def test_a_backup_is_never_written_over_another(home: Path, capsys: Capture) -> None:
    file = backup(home)
    before = file.read_bytes()
    assert main(["backup", str(file), "--config", str(home / "config.toml")]) == Exit.USAGE
    assert file.read_bytes() == before
    assert [one.name for one in home.parent.iterdir() if one.name.startswith(("it", "."))] == ["it.tar.zst"]
