"""The lock that an installed package carries is the one of the repository."""

from __future__ import annotations

from pathlib import Path

from supervisord_ai.engine.location import LOCK

ROOT = Path(__file__).parent.parent.parent.parent


def test_the_shipped_lock_is_the_repositorys() -> None:
    assert LOCK.read_text() == (ROOT / "requirements" / "embedded.lock").read_text()
