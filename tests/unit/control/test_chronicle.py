"""What is written down, and what of it a person should know."""

from __future__ import annotations

import pytest

from supervisord_ai.clock import VirtualClock
from supervisord_ai.control.chronicle import Chronicle
from supervisord_ai.core.downtime import Downtime
from supervisord_ai.core.events import (
    AgentAsked,
    AgentEnded,
    AgentQuarantined,
    AgentReady,
    BackendChanged,
    BreakerChanged,
    ChildKilled,
    EngineRestarted,
    Event,
    RequestLost,
    RequestPoisoned,
    RequestsRecovered,
    SlotLost,
)
from tests.fakes.event_journal import FakeEventJournal


async def test_an_end_is_written_down_with_the_memory_it_had_at_most(autojump_clock: object) -> None:
    journal = FakeEventJournal()
    chronicle = Chronicle(journal, VirtualClock())
    chronicle.tell(AgentEnded("a", 1, "exit:1", 90, 100))
    chronicle.tell(AgentEnded("b", 1, "exit:1"))
    assert [row.detail for row in journal.rows] == [
        {"generation": 1, "verdict": "exit:1", "peak_bytes": 90, "cap_bytes": 100},
        {"generation": 1, "verdict": "exit:1"},
    ]


async def test_every_fact_is_one_event_and_requests_are_none(autojump_clock: object) -> None:
    journal = FakeEventJournal()
    chronicle = Chronicle(journal, VirtualClock())
    facts: list[Event] = [
        AgentReady("a", 1),
        AgentAsked("a", 1),
        ChildKilled("a", 1, 2),
        AgentEnded("a", 1, "oom:own-cap"),
        AgentQuarantined("a", "5 ends in 60 s"),
        BackendChanged("main", "unreachable", "refused"),
        BackendChanged("main", "ready", "Ollama 0.12"),
        BreakerChanged("main", "open"),
        BreakerChanged("main", "closed"),
        EngineRestarted("main"),
        SlotLost("main", "m"),
        RequestsRecovered(3),
        RequestLost("a", "r1", "its agent left the roster"),
        RequestPoisoned("a", "r2", "tried twice"),
    ]
    for fact in facts:
        chronicle.tell(fact)
    assert [(row.kind, row.agent, row.request_id) for row in journal.rows] == [
        ("agent.ready", "a", None),
        ("agent.child-killed", "a", None),
        ("agent.ended", "a", None),
        ("agent.quarantined", "a", None),
        ("backend.unreachable", None, None),
        ("backend.ready", None, None),
        ("breaker.open", None, None),
        ("breaker.closed", None, None),
        ("backend.restarted", None, None),
        ("backend.slot-lost", None, None),
        ("request.recovered", None, None),
        ("request.lost", "a", "r1"),
        ("request.poisoned", "a", "r2"),
    ]


async def test_what_goes_wrong_is_counted_and_what_goes_as_planned_is_not(autojump_clock: object) -> None:
    chronicle = Chronicle(FakeEventJournal(), VirtualClock())
    for verdict in ("stopped:owner", "finished", "oom:own-cap", "oom:own-cap", "exit:3"):
        chronicle.tell(AgentEnded("a", 1, verdict))
    chronicle.tell(BackendChanged("main", "ready", ""))
    assert {one.what: one.count for one in chronicle.happened} == {
        "agent ended: oom:own-cap": 2,
        "agent ended: exit:3": 1,
    }


@pytest.mark.parametrize("down", [None, Downtime(1.0, 4.0, "it was killed")])
async def test_the_daemon_says_when_it_began_and_when_it_ends(autojump_clock: object, down: Downtime | None) -> None:
    journal = FakeEventJournal()
    chronicle = Chronicle(journal, VirtualClock())
    chronicle.began("1.0", 7, "boot", down)
    chronicle.ends("its owner said so")
    began, ended = journal.rows
    assert (began.kind, began.detail["version"]) == ("daemon.started", "1.0")
    assert began.detail.get("why") == (None if down is None else "it was killed")
    assert (ended.kind, ended.detail) == ("daemon.stopped", {"why": "its owner said so"})
