"""`demo --storm`: agents ask more and more until every level was reached, then less, and what was decided when is printed.

Everything is real but the scale: the daemon, its agents, the engine; only the time a request may wait and the dwell of the levels
are short, so that a storm takes two minutes and not an hour. The load is raised until the next level holds, however fast this
machine is. What presses is the storm's own queue alone: this machine's processors and memory, which others may be using, are
left out of the level (`host/rehearsed.py`), or a compiler in another window would hold it up after the storm. Then it is looked
at what was promised:

1. every level was reached in turn, and the machine came back to level 0 by itself;
2. at level 3 nobody but urgent agents got a call of their own: who is not urgent got a kept answer or a 503;
3. the time those were told to stay away was right: within half of the time that it took.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from supervisord_ai.cli.demo.stage import Cast, Stage, find_cast
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import Screen
from supervisord_ai.core.roster import MB
from supervisord_ai.engine.location import MODEL, require_model_file
from supervisord_ai.errors import HostFault, NotRunning, SupervisorError, UsageError
from supervisord_ai.host.memory import machine_memory

PROGRAM = Path(__file__).with_name("storm_agent.py")
OPUS, SONNET = 12, 60  # one urgent agent in six
AGENTS = OPUS + SONNET
MOST = 3 * AGENTS  # each asks three questions at once
STEP = 6
URGENT, USUAL = 3, 5  # the priorities of the two classes
DEADLINE_S = 20.0
DWELL_S = 6.0
LOOK_S = 0.25
RAISE_EVERY_S = 2.0
CLIMB_WITHIN_S = 150.0
HOLD_S = 5.0
CALM_WITHIN_S = 150.0
UP_WITHIN_S = 60.0
WITHIN = 0.5  # of the time it took: how right a Retry-After has to be
SLACK_S = 1.5  # Retry-After is in whole seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that was decided: seconds since the storm began, and what it was in words."""

    at_s: float
    level: int
    what: str


@dataclass(slots=True)
class Storm:
    """What was seen."""

    began_wall: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    levels: list[tuple[float, int]] = field(default_factory=list)  # wall, level; each change
    problems: list[str] = field(default_factory=list)
    answered: int = 0
    turned_away: int = 0
    kept_given: int = 0
    own_calls_at_3: int = 0
    waits_promised_s: float | None = None
    waits_true_s: float | None = None
    took_s: float = 0.0


class StormStage(Stage):
    """The demo's stage with another play: fewer agents, less patience, and a machine that nobody else presses."""

    options = ("--rehearsal",)

    def __init__(self, cast: Cast, *, root: Path | None = None) -> None:
        super().__init__(cast, (), root=root)

    def _set_up(self) -> None:
        super()._set_up()
        shutil.copy(PROGRAM, self.folder / PROGRAM.name)
        self.weather(0)

    def weather(self, askers: int) -> None:
        """Have so many ask from now on."""
        file = self.folder / "weather.new"
        file.write_text(str(askers))
        file.rename(self.folder / "weather")

    def config_text(self) -> str:
        machine_mb = machine_memory().total_bytes // MB
        user = f'user = "{self.cast.user}"\n' if self.cast.user is not None else ""

        def agent(place: int) -> str:
            name, priority = ("opus", URGENT) if place % (AGENTS // OPUS) == 0 else ("sonnet", USUAL)
            words = [self.cast.python, "-I", "-S", f"{self.folder}/{PROGRAM.name}", "{name}", str(place), str(AGENTS)]
            command = json.dumps([*words, str(priority), str(self.folder), self.cast.model])
            return f'[[agents]]\nname = "{name}-{place:02}"\nclass = "{name}"\ncommand = {command}\n'

        of_class = f'memory = "100MB"\nrate = ""\nsubstitute = false\n{user}'
        classes = "".join(f"[class.{name}]\n{of_class}" for name in ("opus", "sonnet"))
        return f"""\
[daemon]
runtime_dir = "{self.folder}/run"
state_dir = "{self.folder}/state"
log_dir = "{self.folder}/log"
[web]
listen = ""
[listen]
tcp = []
[memory]
total = "{machine_mb}MB"
os = "200MB"
ollama = "1GB"
cache = "100MB"
monitoring = "100MB"
agents = "{max(machine_mb - 1500, 500)}MB"
overcommit = {max(1.0, AGENTS * 100 / max(machine_mb - 1500, 500) * 1.01):.2f}
reserve = "200MB"
[queue]
deadline = "{DEADLINE_S:.0f}s"
[levels]
dwell = "{DWELL_S:.0f}s"
[start]
batch_size = 24
[[ollama]]
name = "main"
url = "{self.cast.engine_url or "embedded"}"
slots = 2
{classes}{"".join(map(agent, range(AGENTS)))}"""


def run(args: Namespace) -> int:
    """Play it once; the exit code says whether everything promised was kept.

    Raises:
        UsageError: a model of a foreign Ollama must be named.
        HostFault: the engine is not installed, or the daemon did not start.
    """
    engine_url = args.engine or os.environ.get("ENGINE")
    model = args.model or os.environ.get("MODEL") or ("" if engine_url else MODEL)
    if not model:
        raise UsageError("say which model to ask: MODEL=name, or --model name")
    if not engine_url:
        require_model_file()
    with StormStage(find_cast(model, engine_url)) as stage:
        try:
            storm = play(stage, is_told=not args.json)
        except SupervisorError:
            stage.is_kept = True
            print(f"what was written is kept in {stage.folder}")
            raise
        stage.is_kept = bool(storm.problems)
        if storm.problems and not args.json:
            print(f"what was written is kept in {stage.folder}")
    if args.json:
        print(json.dumps(dataclasses.asdict(storm), indent=2))
    else:
        page(storm).show()
    return Exit.NO if storm.problems else Exit.GOOD


def play(stage: StormStage, *, is_told: bool) -> Storm:
    """From calm to level 3 and back."""
    storm = Storm()
    watch = _Watch(stage, storm, is_told=is_told)
    stage.start_daemon()
    watch.until(lambda told: told["agents"]["by_class"] and _running(told) == AGENTS, UP_WITHIN_S)
    storm.began_wall = time.time()
    watch.note("of this machine's pressure only the queue counts here")
    watch.note(f"{AGENTS} agents run, nobody asks")
    askers = 0
    for level in (1, 2, 3):
        until = time.monotonic() + CLIMB_WITHIN_S
        while watch.level < level and time.monotonic() < until:
            if askers < MOST:
                askers += STEP
                stage.weather(askers)
                if askers % (4 * STEP) == 0:
                    watch.note(f"{askers} ask")
            watch.look_for(RAISE_EVERY_S, lambda: watch.level >= level)  # noqa: B023 - used before it changes
        if watch.level < level:
            storm.problems.append(f"level {level} was not reached")
            break
    watch.look_for(HOLD_S)
    stage.weather(0)
    watch.note("the storm is over: nobody asks any more")
    if not watch.until(lambda told: told["level"]["level"] == 0 and not told["queue"]["queued"], CALM_WITHIN_S):
        storm.problems.append("it did not come back to level 0")
    storm.took_s = time.time() - storm.began_wall
    stage.stop_daemon()
    judge(storm, stage.answers())
    return storm


def _running(told: dict[str, Any]) -> int:
    return sum(one["states"].get("running", 0) for one in told["agents"]["by_class"])


class _Watch:
    """Looks at the daemon again and again, and writes down each change."""

    def __init__(self, stage: StormStage, storm: Storm, *, is_told: bool) -> None:
        self._stage = stage
        self._storm = storm
        self._is_told = is_told
        self._began = time.monotonic()
        self._seen_seq = 0
        self.level = 0

    def note(self, what: str) -> None:
        at_s = time.time() - self._storm.began_wall if self._storm.began_wall else 0.0
        self._add(Moment(at_s, self.level, what))

    def _add(self, moment: Moment) -> None:
        self._storm.moments.append(moment)
        if self._is_told:
            print(f"{moment.at_s:6.1f} s  level {moment.level}  {moment.what}"[:79], flush=True)

    def look(self) -> dict[str, Any] | None:
        told = self._stage.status()
        if told is None:
            self._stage.check_daemon()
            return None
        level = told["level"]["level"]
        if level != self.level:
            self.level = level
            self._storm.levels.append((time.time(), level))
            self.note(f"{told['level']['name']}: {told['level'].get('reason', '')}")
        return told

    def look_for(self, seconds: float, is_enough: Any = lambda: False) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not is_enough():
            self.look()
            time.sleep(LOOK_S)

    def until(self, condition: Any, within_s: float) -> bool:
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            with suppress(NotRunning):
                told = self.look()
                if told is not None and condition(told):
                    return True
            time.sleep(LOOK_S)
        if not self._storm.began_wall:
            raise HostFault(f"the agents did not come up within {within_s:.0f} s:\n{self._stage.last_words()}")
        return False


def judge(storm: Storm, answers: list[dict[str, Any]]) -> None:
    """Compare what agents got with what was promised."""
    storm.answered = sum(one["status"] == 200 for one in answers)
    spans = spans_at(storm.levels, 3)
    # Half a second around a change is nobody's: the daemon had decided before we saw it.
    inside = [one for one in answers if any(begin + 0.5 <= one["sent_at"] <= end - 0.5 for begin, end in spans)]
    usual = [one for one in inside if one["priority"] > URGENT]
    away = [one for one in usual if one["status"] == 503]
    storm.turned_away = len(away)
    storm.kept_given = sum(one["status"] == 200 and one["is_cached"] for one in usual)
    storm.own_calls_at_3 = sum(one["status"] == 200 and not one["is_cached"] for one in usual)
    if storm.own_calls_at_3:
        storm.problems.append(f"at level 3 {storm.own_calls_at_3} calls that are not urgent reached the engine")
    if spans and not usual:
        storm.problems.append("at level 3 nobody asked who is not urgent: nothing is proved")
    if any(one["retry_after_s"] is None for one in away):
        storm.problems.append("a 503 came without Retry-After")
    told = [one for one in away if one["retry_after_s"] is not None]
    pairs = [(one["retry_after_s"], end - one["ended_at"]) for one in told for end in [_end_of(spans, one["sent_at"])] if end]
    if pairs:
        storm.waits_promised_s = median(promised for promised, _ in pairs)
        storm.waits_true_s = median(true for _, true in pairs)
        wrong = abs(storm.waits_promised_s - storm.waits_true_s)
        if wrong > max(WITHIN * storm.waits_true_s, SLACK_S):
            said = f"{storm.waits_promised_s:.0f} s were told, {storm.waits_true_s:.0f} s it took"
            storm.problems.append(f"Retry-After was not right: {said} (medians)")
    elif spans:
        storm.problems.append("at level 3 nobody was turned away")


def spans_at(levels: list[tuple[float, int]], level: int) -> list[tuple[float, float]]:
    """Return from when to when a level held; one that held to the end has no end and is left out."""
    spans = []
    for (begin, now), (end, _) in pairwise(levels):
        if now == level:
            spans.append((begin, end))
    return spans


def _end_of(spans: list[tuple[float, float]], at: float) -> float | None:
    return next((end for begin, end in spans if begin <= at <= end), None)


def page(storm: Storm) -> Screen:
    """Return what was seen for people. What was decided when has been printed as it came."""
    screen = Screen()
    screen.line()
    climbed = " ".join(str(level) for _, level in storm.levels)
    screen.title("levels", f"0 {climbed}, in {storm.took_s:.0f} s; {storm.answered} answers")
    at_3 = f"{storm.turned_away} turned away, {storm.kept_given} kept answers, {storm.own_calls_at_3} own calls"
    screen.title("level 3", f"not urgent: {at_3}")
    if storm.waits_promised_s is not None and storm.waits_true_s is not None:
        told = f"{storm.waits_promised_s:.0f} s told, {storm.waits_true_s:.1f} s it took (medians)"
        screen.title("stay away", told)
    if storm.problems:
        for problem in storm.problems:
            screen.wrapped(("BROKEN", "red"), problem, 11, "red")
    else:
        screen.line(("every promise was kept", "green"))
    return screen
