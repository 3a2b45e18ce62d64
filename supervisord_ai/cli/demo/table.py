"""What came out of the demo: the arithmetic, whether it is what was promised, and the table for a stranger. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisord_ai.cli.demo.story import AGENTS, CRASHER, HOG, OPUS, QUESTIONS, SONNET, STUBBORN, Kind
from supervisord_ai.cli.screen import Screen, size_of, span_of
from supervisord_ai.engine.ledger import LedgerSummary

Answer = Mapping[str, Any]

SLOTS = 2
LONG_ENOUGH_TOKENS = 16
LONG_ENOUGH_TEXTS = 150


@dataclass(frozen=True, slots=True)
class Spread:
    """Half of the values are at most `p50`, 95 of 100 at most `p95`."""

    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """One agent that misbehaved: how its lives ended, in order, and that it was answered all the same."""

    agent: str
    what: str
    verdicts: tuple[str, ...]
    restarts: int
    answers: int


@dataclass(slots=True)
class Seen:
    """What was seen from outside while the demo ran; filled in by the one who looks."""

    daemon_rss_bytes: int = 0
    fleet_bytes: int = 0
    fleet_processes: int = 0
    cpu_s: float = 0.0  # of all daemons so far
    guarantee: str = ""
    identity: str = ""
    verdicts: dict[str, list[str]] = field(default_factory=dict)  # by agent, oldest first
    is_stubborn_gone: bool = False
    killed_after: int | None = None
    back_after_s: float = 0.0
    stopped_in_s: float = 0.0
    took_s: float = 0.0
    left_behind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The demo in figures. `problems` is empty when everything promised was kept."""

    answered: int
    twice: int
    hits: int
    reruns: int
    ledger: LedgerSummary | None
    texts: int
    long_texts: int
    tokens: int
    wait: Spread
    generation: Spread
    misbehaved: tuple[Misbehaviour, ...]
    seen: Seen
    engine: str
    users: str
    problems: tuple[str, ...]

    @property
    def lost(self) -> int:
        return QUESTIONS - self.answered


def outcome(answers: Sequence[Answer], ledger: LedgerSummary | None, seen: Seen, *, engine: str, users: str) -> Outcome:
    """Add everything up."""
    by_key = {answer["key"]: answer for answer in answers}
    hits = sum(answer["is_hit"] for answer in by_key.values())
    called = [answer for answer in by_key.values() if not answer["is_hit"]]
    written = {answer["text"]: answer for answer in called if answer["kind"] != Kind.EMBEDDING}
    by_agent = Counter(answer["agent"] for answer in by_key.values())
    reruns = 0 if ledger is None else ledger.calls + hits - len(by_key)
    result = Outcome(
        answered=len(by_key),
        twice=len(answers) - len(by_key),
        hits=hits,
        reruns=reruns,
        ledger=ledger,
        texts=len(written),
        long_texts=sum(answer["tokens"] >= LONG_ENOUGH_TOKENS for answer in written.values()),
        tokens=sum(answer["tokens"] for answer in called),
        wait=spread(answer["timing_ms"].get("queue", 0.0) / 1000 for answer in called),
        generation=spread(answer["engine_ms"] / 1000 for answer in called if answer["kind"] != Kind.EMBEDDING),
        misbehaved=tuple(
            _misbehaviour(agent, what, seen.verdicts.get(agent, ()), by_agent[agent])
            for agent, what in (
                (HOG, "took more memory than its cap"),
                (CRASHER, "crashed"),
                (STUBBORN, "ignored TERM, with a grandchild in another session"),
            )
        ),
        seen=seen,
        engine=engine,
        users=users,
        problems=(),
    )
    return _judged(result)


def spread(values: Iterable[float]) -> Spread:
    """Nearest rank."""
    ordered = sorted(values)
    if not ordered:
        return Spread(0.0, 0.0)
    return Spread(*(ordered[min(len(ordered) - 1, round(share * len(ordered)))] for share in (0.5, 0.95)))


def _misbehaviour(agent: str, what: str, verdicts: Sequence[str], answers: int) -> Misbehaviour:
    """Every end but the last was followed by a start."""
    return Misbehaviour(agent, what, tuple(verdicts), max(0, len(verdicts) - 1), answers)


def _judged(result: Outcome) -> Outcome:
    """The same with everything that is not as promised."""
    seen, ledger = result.seen, result.ledger
    problems = []

    def expect(is_kept: bool, otherwise: str) -> None:
        if not is_kept:
            problems.append(otherwise)

    expect(not result.lost, f"{result.lost} questions have no answer")
    expect(not result.twice, f"{result.twice} answers were written down twice")
    expect(result.long_texts >= LONG_ENOUGH_TEXTS, f"only {result.long_texts} texts of {LONG_ENOUGH_TOKENS} tokens or more")
    if ledger is not None:
        expect(ledger.peak_in_flight <= SLOTS, f"the engine held {ledger.peak_in_flight} calls at once")
        expect(ledger.peak_in_flight > 1, "the engine never had two calls at once")
        allowed = 0 if seen.killed_after is None else SLOTS
        expect(0 <= result.reruns <= allowed, f"{ledger.calls} calls and {result.hits} hits do not make {result.answered}")
    for bad in result.misbehaved:
        expect(bad.answers == 2, f"{bad.agent} has {bad.answers} answers")
    ends = {bad.agent: bad.verdicts for bad in result.misbehaved}
    expect(any(word.startswith("oom:") for word in ends[HOG]), f"{HOG} was not ended for its memory: {ends[HOG]}")
    expect(any(word.startswith("crash:") for word in ends[CRASHER]), f"{CRASHER} was not seen crashing: {ends[CRASHER]}")
    expect(seen.is_stubborn_gone, f"{STUBBORN} or its grandchild outlived the daemon")
    expect(not seen.left_behind, f"left behind: {', '.join(seen.left_behind)}")
    return Outcome(**{**{name: getattr(result, name) for name in Outcome.__slots__}, "problems": tuple(problems)})


def _in_words(spread: Spread) -> str:
    return f"p50 {span_of(spread.p50_s)}, p95 {span_of(spread.p95_s)}"


def page(result: Outcome) -> Screen:
    """The one table."""
    seen, ledger = result.seen, result.ledger
    screen = Screen()

    def row(head: str, text: str) -> None:
        screen.wrapped((head, "bold"), text, 14)

    who = f"{AGENTS} agents ({OPUS} opus, {SONNET} sonnet)"
    row("asked", f"{QUESTIONS} questions by {who} in {span_of(seen.took_s)}, 3 priorities")
    row("answered", f"{result.answered} of {QUESTIONS}, {result.lost} lost, {result.twice} twice")
    if seen.killed_after is not None:
        back = f"serving again {span_of(seen.back_after_s)} later on the same files"
        row("killed", f"kill -9 after answer {seen.killed_after}; {back}")
    if ledger is not None:
        peak = f"at most {ledger.peak_in_flight} at once (it has {SLOTS} slots)"
        row("engine calls", f"{ledger.calls}, counted by the engine; {peak}")
    else:
        row("engine calls", f"{result.answered - result.hits} answers came from {result.engine}, which keeps no count of its own")
    row("cache hits", f"{result.hits}, answered without a call of their own")
    if ledger is not None:
        again = f" + {result.reruns} begun again after the kill" if result.reruns else ""
        total = f"{ledger.calls} calls + {result.hits} hits = {ledger.calls + result.hits}"
        row("adds up", f"{total} = {result.answered} answers{again}")
    texts = f"{result.tokens} tokens in {result.texts} different texts"
    row("generated", f"{texts}, {result.long_texts} of them of {LONG_ENOUGH_TOKENS} or more ({result.engine})")
    row("wait", f"{_in_words(result.wait)}: in our queue, for one of the {SLOTS} slots")
    row("generation", f"{_in_words(result.generation)}: in the engine, once it began")
    screen.line(("misbehaved", "bold"))
    for bad in result.misbehaved:
        screen.line(f"  {bad.agent:<12}{bad.what}")
        lives = " -> ".join(bad.verdicts) or "not seen to end"
        screen.wrapped("", f"{lives}; {bad.restarts} restarts, {bad.answers} answers", 14)
    gone = "with its grandchild gone" if seen.is_stubborn_gone else "SOMETHING STILL RUNS"
    row("stopped", f"everything in {span_of(seen.stopped_in_s)}, the one that ignores TERM {gone}; 8 s are promised")
    row("daemon", f"{size_of(seen.daemon_rss_bytes)} at most, {span_of(seen.cpu_s)} of CPU")
    row("fleet", f"{size_of(seen.fleet_bytes)} at most, {seen.fleet_processes} agents at once; {result.users}")
    row("caps", seen.guarantee)
    row("identity", seen.identity)
    row("left behind", ", ".join(seen.left_behind) or "nothing: no process, no folder, no cgroup")
    screen.line("")
    if result.problems:
        for problem in result.problems:
            row("NOT KEPT", problem)
    else:
        screen.line(("Everything that was promised was kept.", "green"))
    return screen
