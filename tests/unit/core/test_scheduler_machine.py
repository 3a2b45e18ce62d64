"""The backlog and the slots under any order of events: what must hold after each of them, and that nobody is left behind."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisord_ai.core.scheduler import Effect, Expire, Load, Scheduler, Start, Ticket

SLOTS = {"gpu": 2, "cpu": 1}
MODELS = ("chat", "embed", "other")
MODEL_SLOTS = {"embed": 1}
EVERYWHERE = frozenset(MODELS)


Asked = tuple[str, int, str | None, float, float, bytes | None]
ASKED: st.SearchStrategy[Asked] = st.tuples(
    st.sampled_from(["opus-1", "opus-2", "sonnet-1", "sonnet-2", "sonnet-3"]),
    st.integers(1, 8),
    st.sampled_from([None, *MODELS]),
    st.sampled_from([1.0, 30.0, 1e9]),
    st.sampled_from([-math.inf, -math.inf, 0.0, 20.0]),
    st.sampled_from([None, b"a"]),
)


class Backlog(RuleBasedStateMachine):
    """Two backends, five agents, three models; beside the scheduler a plain account of who must be where."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS, on_cpu=("cpu",))
        self.now = 0.0
        self.waiting: dict[str, Ticket] = {}
        self.running: dict[str, Start] = {}  # by the id of who holds the slot
        self.loads: list[Load] = []
        self.seen: set[str] = set()  # whoever left the backlog: it never comes up again
        self.closed = {"gpu", "cpu"}  # backends on which nothing may begin
        self.count = 0

    @initialize(resident=st.sampled_from([frozenset(), EVERYWHERE]))
    def ready(self, resident: frozenset[str]) -> None:
        for name in SLOTS:
            self.comes_back(name, resident)

    # --- what may happen ------------------------------------------------------------------------------------------------

    @rule(asked=st.lists(ASKED, min_size=1, max_size=6))
    def ask(self, asked: list[Asked]) -> None:
        for agent, priority, model, within_s, after_s, shares in asked:
            self.count += 1
            ticket = Ticket(
                id=str(self.count),
                agent=agent,
                agent_class=agent.partition("-")[0],
                priority=priority,
                arrived_at=self.now,
                start_by=self.now + within_s,
                not_before=self.now + after_s,
                model=model,
                is_embedding=model == "embed",
                shares=shares if model == "chat" else None,
            )
            self.waiting[ticket.id] = ticket
            self.scheduler.push(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        left = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.scheduler.remove(left) is self.waiting.pop(left)
        self.seen.add(left)
        assert self.scheduler.remove(left) is None

    @rule(passed_s=st.sampled_from([0.0, 0.5, 6.0, 40.0]))
    def decides(self, passed_s: float) -> None:
        self.now += passed_s
        for effect in self.scheduler.decide(self.now):
            self.take(effect)
        assert self.scheduler.decide(self.now) == [], "what is to be done was not all done at once"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ended_well=st.booleans(), took_s=st.sampled_from([0.0, 3.0, 60.0]))
    def ends(self, data: st.DataObject, ended_well: bool, took_s: float) -> None:
        ended = data.draw(st.sampled_from(sorted(self.running)))
        self.now += took_s
        lease = self.scheduler.settle(ended, self.now, ended_well=ended_well)
        assert lease.ticket.id == ended
        del self.running[ended]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def first_byte(self, data: st.DataObject) -> None:
        self.scheduler.arrived(data.draw(st.sampled_from(sorted(self.running))))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def reached_nobody(self, data: st.DataObject) -> None:
        start = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        again = (start.ticket, *start.riders)
        self.scheduler.put_back(start.ticket.id, again)
        self.waiting |= {ticket.id: ticket for ticket in again}
        self.seen -= {ticket.id for ticket in again}

    @precondition(lambda self: self.loads)
    @rule(is_resident=st.booleans())
    def load_ends(self, is_resident: bool) -> None:
        load = self.loads.pop()
        self.scheduler.loaded(load.backend, load.model, is_resident=is_resident)

    @rule(name=st.sampled_from(sorted(SLOTS)))
    def is_lost(self, name: str) -> None:
        self.scheduler.backend_lost(name)
        self.closed.add(name)

    @rule(name=st.sampled_from(sorted(SLOTS)), resident=st.frozensets(st.sampled_from(MODELS)))
    def comes_back(self, name: str, resident: frozenset[str]) -> None:
        self.scheduler.backend_ready(name, resident=resident, installed=EVERYWHERE, model_slots=MODEL_SLOTS)
        self.closed.discard(name)

    @rule(is_paused=st.booleans())
    def owner_pauses(self, is_paused: bool) -> None:
        self.scheduler.is_paused = is_paused

    # --- what must hold -------------------------------------------------------------------------------------------------

    def take(self, effect: Effect) -> None:
        match effect:
            case Expire(ticket):
                assert ticket.start_by <= self.now
                self.gone(ticket)
            case Load(backend=name):
                assert name not in self.closed
                assert not [load for load in self.loads if load.backend == name], "two loads at a time"
                self.loads.append(effect)
            case Start(ticket, name, riders):
                assert name not in self.closed, "a start where nothing answers"
                assert not self.scheduler.is_paused
                for each in (ticket, *riders):
                    assert each.start_by > self.now, "a start after its deadline"
                    self.gone(each)
                assert ticket.not_before <= self.now
                assert all(rider.shares == ticket.shares is not None for rider in riders)
                self.running[ticket.id] = effect

    def gone(self, ticket: Ticket) -> None:
        assert ticket.id not in self.seen, "it has left the backlog already"
        assert self.waiting.pop(ticket.id) is ticket
        self.seen.add(ticket.id)

    @invariant()
    def ceilings_hold(self) -> None:
        for name, slots in SLOTS.items():
            leases = self.scheduler.leases(name)
            loads = sum(load.backend == name for load in self.loads)
            assert len(leases) + loads == self.scheduler.busy(name) <= slots
            assert sum(lease.ticket.model == "embed" for lease in leases) <= MODEL_SLOTS["embed"]

    @invariant()
    def everybody_is_where_they_should_be(self) -> None:
        assert self.scheduler.queued == len(self.waiting)
        assert {ticket.id for ticket in self.scheduler.order()} == set(self.waiting)
        held = {lease.ticket.id for name in SLOTS for lease in self.scheduler.leases(name)}
        assert held == set(self.running)

    def teardown(self) -> None:
        """Once everything is well again, everybody is served or told that it is too late."""
        self.scheduler.is_paused = False
        for name in SLOTS:
            self.comes_back(name, frozenset())
        for _ in range(4 * self.count + 20):
            self.decides(6.0)
            while self.loads:
                self.load_ends(True)
            for ended in list(self.running):
                self.scheduler.settle(ended, self.now)
                del self.running[ended]
        assert not self.waiting, "somebody was left behind"


TestBacklog = Backlog.TestCase
TestBacklog.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
