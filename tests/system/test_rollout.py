"""A rollout of real agents by a real daemon: one that works, one that fails, one in whose middle the daemon is killed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import Daemon, ask, eventually, ollama_double, running_daemon
from tests.system.test_owner import USER, say, states, write

pytestmark = pytest.mark.slow

COUNT = 6
ROLLOUT = '[rollout]\ngroup_size = 2\nmin_ready = "300ms"\n'


def fleet_of(command: str, *, memory: str = "64MB") -> str:
    return (
        f'[class.sonnet]\nmemory = "{memory}"\nceiling = 3\nstart = "100ms"\n{USER}\n'
        f'[[agents]]\nname = "a-{{n}}"\nclass = "sonnet"\ncount = {COUNT}\ncommand = {json.dumps(command)}\n{ROLLOUT}'
    )


def commands(daemon: Daemon) -> set[str]:
    """What the agents that live are running, as the kernel says; one that is being replaced may end between the two looks."""
    found = set()
    for one in daemon.agents().values():
        with suppress(FileNotFoundError, ProcessLookupError):
            if one["pid"]:
                found.add(Path(f"/proc/{one['pid']}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
    return found


def pids(daemon: Daemon) -> dict[str, Any]:
    return {name: one["pid"] for name, one in daemon.agents().items()}


def test_a_rollout_goes_on_goes_back_and_outlives_a_kill(tmp_path: Path) -> None:
    with ollama_double() as url, running_daemon(tmp_path, ollama=url, extra=fleet_of("exec sleep 1001")) as daemon:
        everyone = {f"a-{n}": "running" for n in range(1, COUNT + 1)}
        eventually(lambda: states(daemon) == everyone, what="the fleet")
        first = pids(daemon)

        # One that works.
        write(daemon, fleet_of("exec sleep 1002"))
        code, text = say(daemon, "config", "plan", "--exit-code")
        assert (code, text.splitlines()[0]) == (1, "restart  a-1, a-2, a-3, a-4, a-5 and 1 more: command")
        assert say(daemon, "reload")[0] == 0
        assert pids(daemon) == first
        code, text = say(daemon, "rollout")
        assert (code, text.splitlines()[-1]) == (0, f"done: {COUNT} of {COUNT} rolled")
        assert commands(daemon) == {"sleep 1002"}
        assert say(daemon, "rollout") == (0, "nobody is outdated: every agent runs as its config says\n")

        # One that fails: everyone is what he was, and who was never touched was never touched.
        second = pids(daemon)
        write(daemon, fleet_of("sleep 0.05; echo no good; exit 3"))
        assert say(daemon, "reload")[0] == 0
        code, text = say(daemon, "rollout")
        assert code == 1
        assert "rolled back" in text
        assert "exit:3" in text
        eventually(lambda: states(daemon) == everyone, what="the fleet, back")
        assert commands(daemon) == {"sleep 1002"}
        untouched = [name for name, pid in pids(daemon).items() if pid == second[name]]
        assert untouched == ["a-3", "a-4", "a-5", "a-6"]
        kinds = [one["kind"] for one in ask(daemon.control, "/v1/journal?n=500").json["events"]]
        assert [kind for kind in kinds if kind.startswith("rollout.")] == [
            *("rollout.running", "rollout.done", "rollout.running", "rollout.rolling-back", "rollout.rolled-back"),
        ]

        # One in whose middle we are killed.
        write(daemon, fleet_of("exec sleep 1003"))
        assert say(daemon, "reload")[0] == 0
        assert say(daemon, "rollout", "--no-wait")[0] == 0
        eventually(lambda: "sleep 1003" in commands(daemon), what="the first group")
        daemon.config = (tmp_path / "config.toml").read_text()
        daemon.kill()
        daemon.start()
        eventually(lambda: states(daemon) == everyone, what="the fleet, after a kill")
        code, text = say(daemon, "rollout", "--status")
        assert code == 1
        assert text.startswith("paused: ")
        assert "sleep 1002" in commands(daemon)  # who was not rolled is started as what he was
        code, text = say(daemon, "rollout", "--abort")
        assert (code, text.splitlines()[-1].split(":")[0]) == (0, "rolled back")
        eventually(lambda: commands(daemon) == {"sleep 1002"}, what="everyone, back")
        assert daemon.stop() == 0


def test_a_cap_is_changed_while_the_agents_run(tmp_path: Path) -> None:
    with ollama_double() as url, running_daemon(tmp_path, ollama=url, extra=fleet_of("exec sleep 1001")) as daemon:
        eventually(lambda: set(states(daemon).values()) == {"running"}, what="the fleet")
        before = pids(daemon)
        write(daemon, fleet_of("exec sleep 1001", memory="96MB"))
        assert say(daemon, "reload") == (
            0, f"live     a-1, a-2, a-3, a-4, a-5 and {COUNT - 5} more: memory_bytes\nclass    sonnet: memory_bytes\n"
        )  # fmt: skip
        assert {one["cap_bytes"] for one in daemon.agents().values()} == {96_000_000}
        assert pids(daemon) == before
        assert daemon.stop() == 0
