"""Commands of the owner, on the real system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from supervisord_ai.host.command import run_command


async def test_a_command_is_run_as_it_is_written_and_without_a_shell(tmp_path: Path) -> None:
    assert await run_command(["touch", str(tmp_path / "a; b")])
    assert os.listdir(tmp_path) == ["a; b"]


async def test_one_that_fails_is_logged_with_its_last_words(caplog: pytest.LogCaptureFixture) -> None:
    assert not await run_command(["sh", "-c", "echo no such unit >&2; exit 5"])
    assert "ended with 5: no such unit" in caplog.text


async def test_one_that_is_not_there_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert not await run_command(["/no/such/command"])
    assert "cannot be run" in caplog.text


async def test_one_that_never_ends_is_ended(tmp_path: Path) -> None:
    with trio.move_on_after(0.3) as scope:
        await run_command(["sleep", "1000"])
    assert scope.cancelled_caught
