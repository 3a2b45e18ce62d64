"""What you see while the demo runs: one screen that changes on a terminal, one line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from supervisord_ai.cli.demo.story import QUESTIONS
from supervisord_ai.cli.screen import Screen, has_colours, size_of, span_of

LINE_EVERY_S = 2.0
BAR_WIDTH = 40
SHOWN_DEEDS = 6

Status = Mapping[str, Any]


class View(Protocol):
    """Shows the state of things again and again, and deeds as they happen."""

    def show(self, answered: int, hits: int, status: Status | None) -> None: ...

    def tell(self, deed: str) -> None: ...

    def __enter__(self) -> View: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def find_view() -> View:
    """The best view this output can show."""
    return LiveView() if has_colours() else LineView()


class LineView:
    """Lines: a deed at once, the state every two seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown_at = 0.0

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def tell(self, deed: str) -> None:
        print(f"{self._elapsed()}  {deed}", flush=True)

    def show(self, answered: int, hits: int, status: Status | None) -> None:
        now = time.monotonic()
        if now - self._shown_at < LINE_EVERY_S:
            return
        self._shown_at = now
        answers = f"{answered:>3} of {QUESTIONS} answered, {hits} from the cache"
        print(f"{self._elapsed()}  {answers}   {_in_short(status)}", flush=True)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s"


class LiveView:
    """One screen, drawn again in place."""

    def __init__(self) -> None:
        from rich.live import Live  # noqa: PLC0415 - 0.2 s that only a terminal waits for

        self._began = time.monotonic()
        self._deeds: list[str] = []
        self._live = Live(auto_refresh=False, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        for deed in self._deeds:
            print(deed)
        sys.stdout.flush()

    def tell(self, deed: str) -> None:
        self._deeds.append(f"{time.monotonic() - self._began:6.1f} s  {deed}")

    def show(self, answered: int, hits: int, status: Status | None) -> None:
        screen = live_page(time.monotonic() - self._began, answered, hits, status, self._deeds)
        self._live.update(screen.rich(), refresh=True)  # type: ignore[arg-type]


def live_page(elapsed_s: float, answered: int, hits: int, status: Status | None, deeds: list[str]) -> Screen:
    """The screen of one moment."""
    screen = Screen()
    done = BAR_WIDTH * answered // QUESTIONS
    screen.line(("131 agents, one socket, two slots, one small model", "bold"), f"   {span_of(elapsed_s)}")
    screen.line(("█" * done, "green"), "░" * (BAR_WIDTH - done), f" {answered} of {QUESTIONS} answered, {hits} from the cache")
    screen.line("")
    if status is None:
        screen.line(("no daemon just now", "red"))
    else:
        _show_status(screen, status)
    screen.line("")
    for deed in deeds[-SHOWN_DEEDS:]:
        screen.line(deed)
    return screen


def _show_status(screen: Screen, status: Status) -> None:
    for backend in status["backends"]:
        screen.line((f"{'slots':<10}", "bold"), f"{backend['busy']} of {backend['slots']} busy")
        for run in backend["running"]:
            again = f", attempt {run['attempt']}" if run["attempt"] > 1 else ""
            screen.line(f"  {run['agent']:<12}{run['path']:<22}priority {run['priority']}  {span_of(run['since_s'])}{again}")
    queue = status["queue"]
    levels = ", ".join(f"{level['queued']} of priority {level['priority']}" for level in queue["by_priority"] if level["queued"])
    screen.line((f"{'waiting':<10}", "bold"), f"{queue['queued']}", f": {levels}" if levels else "")
    for one in status["agents"]["by_class"]:
        states = ", ".join(f"{count} {state}" for state, count in one["states"].items())
        screen.line((f"{one['class']:<10}", "bold"), states)
    memory = status["memory"]
    agents = next(part for part in memory["plan"] if part["name"] == "agents")
    used = f"daemon {size_of(memory['daemon_rss_bytes'])}, agents {size_of(agents['used_bytes'])}"
    screen.line((f"{'memory':<10}", "bold"), used)


def _in_short(status: Status | None) -> str:
    if status is None:
        return "no daemon just now"
    states: dict[str, int] = {}
    for one in status["agents"]["by_class"]:
        for state, count in one["states"].items():
            states[state] = states.get(state, 0) + count
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{status['queue']['running']} running, {status['queue']['queued']} waiting; agents: {told}"
