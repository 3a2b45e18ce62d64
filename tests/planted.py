"""Deliberate bugs, one a promise, each put into a copy of the tree: its tests must fail there, or they prove nothing.

    python -m tests.planted              all of them; prints who caught what, exits 1 if one was not caught
    python -m tests.planted G3 S1        only these

A bug is a text and what stands in its place. That the text still stands in the tree is held by `tests/unit/test_planted.py`, so
a bug that can no longer be planted is noticed in every run of the suite.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
WITHIN_S = 180.0  # the slowest of these files takes a third of it


@dataclass(frozen=True, slots=True)
class Bug:
    """`what` it breaks, where, and which tests must fail."""

    promise: str
    what: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


ROLLOUTS = ("tests/sim/test_sim.py::test_rollouts_go_through_or_back_whatever_dies_meanwhile",)
FAIR = "tests/shell/test_promises_fair.py"
CROWD = ("tests/sim/test_sim.py::test_a_crowd_is_served_in_its_order_by_models_that_do_not_fit_together",)
BUGS = (
    Bug(
        "G1", "one call more than there are slots", "core/slots.py",
        "return is_open and self.busy < self.slots", "return is_open and self.busy <= self.slots",
        (f"{FAIR}::test_g1_131_at_once_use_every_slot_to_the_end_and_not_one_more",),
    ),
    Bug(
        "G2", "nobody is charged for what it used", "core/shares.py",
        "self.amount = self.value(now, window_s) + amount", "self.amount = self.value(now, window_s)",
        (FAIR,),
    ),
    Bug(
        "G3", "a leaver stays in the queue", "gateway/backlog.py",
        "            case Leaving.OUT:\n                self._scheduler.remove(request.id)",
        "            case Leaving.OUT:\n                pass",
        ("tests/shell/test_promises_leavers.py",),
    ),
    Bug(
        "G4", "a caller's own mistake counts against Ollama", "core/breaker.py",
        "    return status >= 500 and any(words in message for words in _RUNNER_GONE)", "    return status >= 400",
        ("tests/shell/test_gateway_breaker.py", "tests/unit/core/test_breaker.py"),
    ),
    Bug(
        "G5", "rows of the last life are forgotten", "gateway/recovery.py",
        "        ids = self._requests.unfinished()", "        ids = self._requests.unfinished()[:0]",
        ("tests/shell/test_gateway_recovery.py",),
    ),
    Bug(
        "G6", "a deadline is not looked at", "core/scheduler.py",
        "[Expire(ticket) for ticket in self._waiting.advance(now)]",
        "[Expire(ticket) for ticket in self._waiting.advance(now)][:0]",
        ("tests/shell/test_gateway_estimates.py", "tests/unit/core/test_scheduler.py"),
    ),
    Bug(
        "G7", "the ceiling of a class is no ceiling", "core/admission.py",
        "return max(policy.priority if asked is None else asked, policy.ceiling)",
        "return policy.priority if asked is None else asked",
        (f"{FAIR}::test_g7_nobody_is_served_above_the_ceiling_of_its_class", "tests/unit/core/test_admission.py"),
    ),
    Bug(
        "G7", "a class may starve", "core/shares.py",
        "return name if share < min(floor, 1.0 / len(candidates)) else None", "return None",
        (f"{FAIR}::test_g7_every_class_with_work_keeps_a_tenth_of_the_slots",),
    ),
    Bug(
        "G8", "equal calls are made each by itself", "core/coalesce.py",
        "return None if wish.no_store or wish.no_cache else key", "return None",
        ("tests/shell/test_gateway_coalesce.py",),
    ),
    Bug(
        "G9", "half an answer is kept", "store/cache.py",
        "        if answer.cut:", "        if False:",
        ("tests/shell/test_cache_file.py", "tests/shell/test_gateway_cache.py"),
    ),
    Bug(
        "G10", "a loaded model is never preferred", "core/scheduler.py",
        "if not at_hand or backend.bypassed >= self.policy.bypass_max:", "if True:",
        ("tests/shell/test_gateway_order.py",),
    ),
    Bug(
        "G12", "a stream without its last line is an answer", "gateway/relay.py",
        "return Outcome(End.WHOLE if fields.get(\"done\") is True else End.UNFINISHED)", "return Outcome(End.WHOLE)",
        ("tests/shell/test_gateway_recovery.py", "tests/shell/test_gateway_relay.py"),
    ),
    Bug(
        "G12", "an answer that was cut is an answer", "gateway/relay.py",
        'outcome = Outcome(End.FAULT, 502, f"Ollama broke off its answer after {exc.after_bytes} bytes")',
        "outcome = Outcome(End.WHOLE) if exc else outcome",
        ("tests/shell/test_gateway_relay.py",),
    ),
    Bug(
        "G14", "a token outranks what the kernel says", "core/identity.py",
        "        if by_kernel is not None:", "        if by_kernel is not None and claimed is None:",
        ("tests/unit/core/test_identity.py",),
    ),
    Bug(
        "G15", "a level is left at once", "core/degradation.py",
        "largest < leave_at and self.decided_for_s >= self.policy.dwell_s", "largest < leave_at",
        ("tests/unit/core/test_degradation.py",),
    ),
    Bug(
        "G16", "embeds that wait go one by one", "core/scheduler.py",
        "if ticket.merges is None or backend.has_more_room(ticket.model):", "if True:",
        ("tests/shell/test_gateway_batch.py",),
    ),
    Bug(
        "G17", "a hung engine is waited for", "core/watchdog.py",
        "if now - self._silent_since < patience_s or", "if True or",
        ("tests/unit/core/test_watchdog.py", "tests/shell/test_gateway_breaker.py"),
    ),
    Bug(
        "S1", "whoever has left its group is taken over all the same", "core/adoption.py",
        "    if not found.main_is_inside:", "    if False:", ("tests/unit/core/test_adoption.py", "tests/shell/test_adoption.py"),
    ),
    Bug(
        "S2", "every SIGKILL is somebody else's", "core/verdict.py",
        "    if evidence.oom_kills and killed:", "    if False and killed:",
        ("tests/unit/core/test_verdict.py",),
    ),
    Bug(
        "S5", "a stop does not end the start", "agents/fleet.py",
        "        self._is_stopping = True\n        self._starting.cancel()\n", "",
        ("tests/shell/test_fleet.py",),
    ),
    Bug(
        "S6", "a rollout never goes back", "core/rollout.py",
        "if self.failures > self.policy.max_failures and self._heading is Heading.FORWARD:", "if False:",
        ("tests/unit/core/test_rollout.py", "tests/shell/test_fleet_rollout.py"),
    ),
    Bug(
        "S7", "all that fall together come back together", "core/restart.py",
        "        return bound_s * draw", "        return 0.0",
        ("tests/unit/core/test_restart.py", "tests/shell/test_fleet.py"),
    ),
    Bug(
        "S9", "our own refusals count against an agent", "core/restart.py",
        "            case Blame.ITSELF if verdict.is_after_gateway:", "            case Blame.ITSELF if False:",
        ("tests/unit/core/test_restart.py", "tests/shell/test_fleet.py"),
    ),
    Bug(
        "D1", "an acknowledgement does not wait for the disk", "store/database.py",
        "elif self._durability is Durability.POWER and waiters:", "elif False:",
        ("tests/shell/test_database.py",),
    ),
    Bug(
        "D2", "after a failed sync all is well again", "store/database.py",
        "        self._break(words)\n        later", "        later",
        ("tests/shell/test_database.py",),
    ),
    Bug(
        "D3", "a config with a problem is taken", "config/load.py",
        "    if loading.reader.problems:\n", "    if False:\n",
        ("tests/unit/test_config_problems.py",),
    ),
    # What the simulator alone must see, in its plans of a crowd and of rollouts.
    Bug(
        "S6", "a rollout of what crashes goes on", "core/rollout.py",
        "if self.failures > self.policy.max_failures and self._heading is Heading.FORWARD:", "if False:", ROLLOUTS,
    ),
    Bug(
        "S6", "the next group does not wait for the last", "core/rollout.py",
        "        room = self.policy.group_size - len(self.in_hand)", "        room = 30", ROLLOUTS,
    ),
    Bug(
        "S6", "what was put back is not held to what it was", "agents/rollout.py",
        "            if one.name in self._agents and self._is_held_to(one):", "            if False:", ROLLOUTS,
    ),
    Bug(
        "G2", "an agent's next turn begins with its first", "core/scheduler.py",
        "            self._turn_at[each.agent] = now\n        estimate_s", "        estimate_s", CROWD,
    ),
    Bug(
        "G2", "a level of priority is worth nothing", "core/scheduler.py",
        "self._turn_at[ticket.agent]) + ticket.priority * self.policy.level_s", "self._turn_at[ticket.agent])", CROWD,
    ),
    Bug(
        "G4", "a caller's own mistake opens the breaker", "core/breaker.py",
        "    return status >= 500 and any(words in message for words in _RUNNER_GONE)", "    return status >= 400", CROWD,
    ),
    Bug(
        "G7", "whoever asks for more than its ceiling gets it", "core/admission.py",
        "return max(policy.priority if asked is None else asked, policy.ceiling)",
        "return policy.priority if asked is None else asked", CROWD,
    ),
    Bug(
        "G7", "a class with patient work may have nothing", "core/shares.py",
        "return name if share < min(floor, 1.0 / len(candidates)) else None", "return None", CROWD,
    ),
    Bug(
        "G10", "models are swapped call by call", "core/scheduler.py",
        "if not at_hand or backend.bypassed >= self.policy.bypass_max:", "if True:", CROWD,
    ),
    Bug(
        "G10", "whose model is not loaded may starve", "core/scheduler.py",
        "if not at_hand or backend.bypassed >= self.policy.bypass_max:", "if not at_hand:", CROWD,
    ),
    Bug(
        "G11", "an agent gets the context that it asks for", "gateway/classify.py",
        '            kept["num_ctx"] = pins.num_ctx\n',
        '            kept["num_ctx"] = (options or {}).get("num_ctx", pins.num_ctx)\n', CROWD,
    ),
    Bug(
        "G11", "an agent's keep_alive unloads everybody's model", "gateway/classify.py",
        'sent["keep_alive"] = keep_alive_json(pins.keep_alive_s)',
        'sent["keep_alive"] = asked if asked is not None else keep_alive_json(pins.keep_alive_s)', CROWD,
    ),
    Bug(
        "G16", "embeds that came together go one by one", "core/scheduler.py",
        "if ticket.merges is None or backend.has_more_room(ticket.model):", "if True:", CROWD,
    ),
    Bug(
        "G17", "a backend that says nothing is ready", "gateway/backends.py",
        "            self.state = BackendState.UNREACHABLE\n            self._tell", "            self._tell", CROWD,
    ),
    Bug(
        "S3", "an agent begins without its cap", "agents/generation.py",
        "cage.prepare(None if doors.is_observed else spec.policy.memory_bytes, tag)", "cage.prepare(None, tag)", CROWD,
    ),
    Bug(
        "D3", "a reload takes a config with a mistake", "config/load.py",
        "    if loading.reader.problems:\n", "    if False:\n", CROWD,
    ),
)


def plant(bug: Bug, into: Path) -> None:
    """Put it into a copy of the tree. Raises: AssertionError, its text is not there."""
    file = into / "supervisord_ai" / bug.file
    text = file.read_text()
    assert bug.text in text, f"{bug.file} no longer says {bug.text!r}"
    file.write_text(text.replace(bug.text, bug.instead, 1))


def is_caught(bug: Bug) -> bool:
    """Run its tests in a copy of the tree that has it."""
    with tempfile.TemporaryDirectory(prefix="ai-planted-") as folder:
        copy = Path(folder)
        for name in ("supervisord_ai", "tests", "bench", "docs", "systemd", "dashboards"):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "config.toml", "README.md"):
            shutil.copy(ROOT / name, copy / name)
        plant(bug, copy)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *bug.tests]
        try:
            done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=WITHIN_S, check=False)
        except subprocess.TimeoutExpired:
            return True  # virtual time went on for ever: no run of the suite would end well either
        if done.returncode not in {0, 1}:
            raise RuntimeError(f"{bug.promise}: the tests did not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.returncode == 1


def main() -> int:
    wanted = set(sys.argv[1:])
    missed = 0
    for bug in BUGS:
        if wanted and bug.promise not in wanted:
            continue
        caught = is_caught(bug)
        missed += not caught
        print(f"{bug.promise:4} {'caught' if caught else 'NOT CAUGHT'}  {bug.what} ({bug.file})", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
