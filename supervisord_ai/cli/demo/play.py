"""`demo`: tells the story in order, and looks at it from outside like any owner would."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from supervisord_ai.cli.demo import storm
from supervisord_ai.cli.demo.stage import Stage, find_cast, is_alive
from supervisord_ai.cli.demo.story import AGENTS, CRASHER, HOG, QUESTIONS, STUBBORN, story
from supervisord_ai.cli.demo.table import Seen, outcome, page
from supervisord_ai.cli.demo.view import View, find_view
from supervisord_ai.cli.exits import Exit
from supervisord_ai.clock import SystemClock
from supervisord_ai.engine.location import MODEL, require_model_file
from supervisord_ai.errors import HostFault, SupervisorError, UsageError
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.journal import EventJournal
from supervisord_ai.store.schema import JOURNAL

LOOK_EVERY_S = 0.25
KILL_AFTER = 100
TOLD_ONE_BY_ONE = 5
ALIVE = {"running", "ready", "starting"}
PATIENCE_S = 600.0  # the promise is five minutes on two cores


def run(args: Namespace) -> int:
    """Play it once; the exit code says whether everything promised was kept.

    Raises:
        UsageError: a model of a foreign Ollama must be named.
        HostFault: the engine is not installed, or the daemon did not start.
    """
    if args.storm:
        return storm.run(args)
    engine_url = args.engine or os.environ.get("ENGINE")
    model = args.model or os.environ.get("MODEL") or ("" if engine_url else MODEL)
    if not model:
        raise UsageError("say which model to ask: MODEL=name, or --model name")
    if not engine_url:
        require_model_file()
    is_killing = args.kill or os.environ.get("KILL", "") not in {"", "0"}
    cast = find_cast(model, engine_url)
    with Stage(cast, story(model)) as stage:
        try:
            seen = _play(stage, is_killing=is_killing)
        except SupervisorError:
            stage.is_kept = True
            print(f"what was written is kept in {stage.folder}")
            raise
        engine = f"{model} at {engine_url}" if engine_url else f"{model}, the embedded engine"
        result = outcome(stage.answers(), stage.ledger(), seen, engine=engine, users=cast.user_detail)
        stage.is_kept = bool(result.problems)
        if result.problems:
            print(f"what was written is kept in {stage.folder}")
    if args.json:
        print(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        print()
        page(result).show()
    return Exit.NO if result.problems else Exit.GOOD


def _play(stage: Stage, *, is_killing: bool) -> Seen:
    """From the first start to the last end."""
    began = time.monotonic()
    seen = Seen()
    with find_view() as view:
        view.tell(f"starting the daemon, the engine and {AGENTS} agents; {stage.cast.user_detail}")
        up_s = stage.start_daemon()
        view.tell(f"the daemon serves after {up_s:.1f} s")
        watch = _Watch(stage, view, seen)
        if is_killing:
            watch.until(lambda answered: answered >= KILL_AFTER and watch.have_ended(HOG, CRASHER))
            seen.killed_after = watch.answered
            stage.kill_daemon()
            killed_at = time.monotonic()
            view.tell(f"kill -9 to the daemon after answer {watch.answered}")
            watch.daemon_is_gone()
            stage.start_daemon()
            seen.back_after_s = time.monotonic() - killed_at
            view.tell(f"the daemon serves again after {seen.back_after_s:.1f} s, on the same files")
        watch.until(lambda answered: answered >= QUESTIONS)
        seen.took_s = time.monotonic() - began
        view.tell("every question is answered; stopping everything")
        watch.look()
        watch.daemon_is_gone()
        leftovers = stage.grandchildren(STUBBORN)
        seen.stopped_in_s = stage.stop_daemon()
        seen.is_stubborn_gone = bool(leftovers) and not any(is_alive(*process) for process in leftovers)
    seen.left_behind = tuple(stage.left_behind())
    _read_verdicts(stage, seen)
    return seen


class _Watch:
    """Looks at the stage again and again, and remembers what a later look would not show."""

    def __init__(self, stage: Stage, view: View, seen: Seen) -> None:
        self._stage = stage
        self._view = view
        self._seen = seen
        self._began = time.monotonic()
        self._cpu_before_s = 0.0
        self._cpu_s = 0.0
        self._ends: dict[str, tuple[int, str | None]] = {}
        self.answered = 0

    def until(self, is_enough: Callable[[int], bool]) -> None:
        """Look until so many answers are written down.

        Raises:
            HostFault: the daemon ended, or it takes too long.
        """
        while True:
            self.look()
            if is_enough(self.answered):
                return
            self._stage.check_daemon()
            if time.monotonic() - self._began > PATIENCE_S:
                raise HostFault(f"{self.answered} of {QUESTIONS} answered after {PATIENCE_S:.0f} s:\n{self._stage.last_words()}")
            time.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """One look at everything."""
        answers = self._stage.answers()
        self.answered = len({answer["key"] for answer in answers})
        status = self._stage.status()
        if status is not None:
            self._remember(status)
            self._tell_ends(self._stage.agents())
        self._view.show(self.answered, sum(answer["is_hit"] for answer in answers), status)

    def have_ended(self, *names: str) -> bool:
        """Whether each of these was seen to end once."""
        return all(self._ends.get(name, (0, None))[1] is not None for name in names)

    def daemon_is_gone(self) -> None:
        """Its CPU clock starts anew with the next."""
        self._cpu_before_s += self._cpu_s
        self._cpu_s = 0.0
        self._seen.cpu_s = self._cpu_before_s

    def _remember(self, status: dict[str, Any]) -> None:
        seen, memory = self._seen, status["memory"]
        seen.daemon_rss_bytes = max(seen.daemon_rss_bytes, memory["daemon_rss_bytes"])
        self._cpu_s = memory["daemon_cpu_s"]
        agents = next(part for part in memory["plan"] if part["name"] == "agents")
        seen.fleet_bytes = max(seen.fleet_bytes, agents["used_bytes"] or 0)
        states: dict[str, int] = {}
        for one in status["agents"]["by_class"]:
            for state, count in one["states"].items():
                states[state] = states.get(state, 0) + count
        alive = sum(count for state, count in states.items() if state in ALIVE)
        seen.fleet_processes = max(seen.fleet_processes, alive)
        seen.guarantee = f"{status['guarantee']['level']}: {status['guarantee']['detail']}"
        seen.identity = f"{status['identity']['level']}: {status['identity']['detail']}"

    def _tell_ends(self, agents: dict[str, dict[str, Any]]) -> None:
        ended: dict[str, list[dict[str, Any]]] = {}
        for name, agent in agents.items():
            # A verdict stands until the next end: started again it is no news.
            ends = agent["restarts"] + (agent["state"] not in ALIVE)
            verdict, now = agent["verdict"], (ends, agent["verdict"])
            if verdict is not None and now != self._ends.get(name):
                self._ends[name] = now
                if not verdict.startswith("finished"):
                    ended.setdefault(verdict, []).append(agent)
        for verdict, those in ended.items():
            if len(those) > TOLD_ONE_BY_ONE:
                self._view.tell(f"{len(those)} agents ended: {verdict}")
                continue
            for agent in those:
                self._view.tell(f"{agent['name']} ended: {verdict} ({agent['detail'].partition(chr(10))[0]})")


def _read_verdicts(stage: Stage, seen: Seen) -> None:
    """How every life of the agents ended, from the journal that the daemon left."""
    database = Database(stage.folder / "state" / "journal.db", JOURNAL, durability=Durability.PROCESS)
    try:
        for event in EventJournal(database, SystemClock()).after(0, 100_000):
            if event.kind == "agent.ended" and event.agent is not None:
                seen.verdicts.setdefault(event.agent, []).append(str(event.detail["verdict"]))
    finally:
        database.close()
