"""`doctor` on this machine, before a real daemon and the double of Ollama."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.system.harness import ROOT, USER_LINE, config_text, ollama_double, running_daemon

FLEET = f"""
[class.worker]
memory = "100MB"
ceiling = 3
priority = 3
{USER_LINE}
[[agents]]
name = "one"
class = "worker"
command = ["sleep", "600"]
"""


def doctor(config: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "supervisord_ai", "doctor", "--json", "--config", str(config), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, {one["name"]: one for one in told["findings"]} | {"done": told["done"]}


def test_a_running_daemon_is_asked_and_its_own_connections_are_no_intruders(tmp_path: Path) -> None:
    with ollama_double() as url, running_daemon(tmp_path, ollama=url, extra=FLEET) as daemon:
        _, found = doctor(tmp_path / "config.toml")
        assert found["ollama.main.version"]["severity"] == "good"
        assert found["ollama.main.alone"]["severity"] == "good"
        level = daemon.status()["guarantee"]["level"]
        assert found["machine.caps"]["severity"] == {"hard": "good", "hard-v1": "note", "soft-rlimit": "warn"}[level]


def test_a_state_folder_that_others_can_read_ends_with_1_and_fix_closes_it(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    with ollama_double() as url:
        config.write_text(config_text(tmp_path, ollama=url))
        (tmp_path / "state").mkdir(mode=0o700)
        secret = tmp_path / "state" / "secret"
        secret.write_bytes(os.urandom(32))
        secret.chmod(0o644)
        code, found = doctor(config)
        assert code == 1
        assert found["files.secret"]["fixes"][0]["lines"] == [f"chmod 600 {secret}"]
        _, found = doctor(config, "--fix")
        assert found["files.secret"]["severity"] == "good"
        assert secret.stat().st_mode & 0o777 == 0o600
