"""Who calls a backend past the queue is found and named; where the owner wants it, the way there is closed."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.clock import SystemClock
from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.isolation import Dialled
from supervisord_ai.core.locate import Facts
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.errors import HostFault
from supervisord_ai.health.back_doors import REMEMBERED_S, BackDoors
from supervisord_ai.store.disk import inline
from tests.fakes.connections import FakeConnections, FakeFirewall

FLEET = "/x/ai-supervisor-1/agents"


class Machine:
    def __init__(self, *, url: str = "http://127.0.0.1:11434", firewall: FakeFirewall | None = None) -> None:
        self.connections = FakeConnections()
        self.facts = Facts()
        self.told: list[tuple[str | None, str, str]] = []
        self.doors = BackDoors(
            [BackendSpec(name="main", url=url)],
            facts=lambda: self.facts,
            fleet=FLEET,
            firewall=firewall,
            connections=self.connections,
            agent_of=lambda facts: "sonnet-07" if facts.uid == 999 else None,
            found=lambda agent, who, backend: self.told.append((agent, who, backend)),
            clock=SystemClock(),
            run_sync=inline,
        )

    def dials(self, inode: int, *, uid: int, port: int = 11434) -> None:
        here = ip_address("127.0.0.1")
        self.connections.open[inode] = Dialled(here, here, port, uid, inode)
        self.connections.holders[inode] = PeerFacts(4000 + inode, uid, uid)


async def test_an_agent_that_goes_past_us_is_named_and_asked_for_once(autojump_clock: MockClock) -> None:
    machine = Machine()
    machine.dials(1, uid=999)
    for _ in range(3):
        await machine.doors.look()
    machine.dials(2, uid=999)
    await machine.doors.look()
    assert machine.connections.looked_for == [1, 2]  # that is slow: once for each connection
    assert machine.told == [("sonnet-07", "sonnet-07", "main")]
    (view,) = machine.doors.statistics()
    assert (view.who, view.agent, view.backend, view.connections) == ("sonnet-07", "sonnet-07", "main", 2)


async def test_our_own_calls_and_calls_elsewhere_are_none(autojump_clock: MockClock) -> None:
    machine = Machine()
    machine.dials(1, uid=0)
    machine.connections.ours.add(1)
    machine.dials(2, uid=999, port=8080)
    await machine.doors.look()
    assert machine.doors.statistics() == ()
    assert machine.connections.looked_for == []


async def test_another_program_is_named_by_what_it_is(autojump_clock: MockClock) -> None:
    machine = Machine()
    machine.dials(5, uid=1000)
    await machine.doors.look()
    (view,) = machine.doors.statistics()
    assert (view.who, view.agent) == ("curl 4005 (uid 1000)", None)


async def test_one_that_has_ended_is_nobody_and_after_a_while_all_is_forgotten(autojump_clock: MockClock) -> None:
    machine = Machine()
    machine.dials(1, uid=999)
    del machine.connections.holders[1]
    await machine.doors.look()
    assert machine.doors.statistics() == ()
    machine.dials(2, uid=999)
    await machine.doors.look()
    assert len(machine.doors.statistics()) == 1
    machine.connections.open.clear()
    await trio.sleep(REMEMBERED_S + 1)
    await machine.doors.look()
    assert machine.doors.statistics() == ()


async def test_an_inode_that_is_used_again_is_another_connection(autojump_clock: MockClock) -> None:
    machine = Machine()
    machine.dials(1, uid=1000)
    await machine.doors.look()
    machine.connections.open.clear()
    await machine.doors.look()
    machine.dials(1, uid=999)
    await machine.doors.look()
    assert {view.who for view in machine.doors.statistics()} == {"curl 4001 (uid 1000)", "sonnet-07"}


async def test_doors_are_closed_and_opened_and_follow_a_backend_that_moves(autojump_clock: MockClock) -> None:
    firewall = FakeFirewall()
    machine = Machine(url="auto", firewall=firewall)
    machine.doors.close()
    assert "dport 11434" in firewall.tables["ai_supervisor_1"]
    machine.facts = replace(machine.facts, ollama_host="127.0.0.1:9999")
    await machine.doors.look()
    assert "dport 9999" in firewall.tables["ai_supervisor_1"]
    machine.doors.open()
    assert firewall.tables == {}


async def test_a_firewall_that_cannot_is_an_error_and_none_is_no_rule(autojump_clock: MockClock) -> None:
    with pytest.raises(HostFault, match="Operation not supported"):
        Machine(firewall=FakeFirewall(is_broken=True)).doors.close()
    machine = Machine()
    machine.doors.close()
    machine.doors.open()


async def test_a_backend_on_a_unix_socket_has_no_back_door(autojump_clock: MockClock) -> None:
    machine = Machine(url="unix:///run/ollama.sock")
    machine.dials(1, uid=999)
    await machine.doors.look()
    assert machine.doors.statistics() == ()
