"""The answers in memory (L1) under any order of events, beside a plain list of what each agent was given last."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from supervisord_ai.gateway.memory import OVERHEAD_BYTES, Held, Memory
from supervisord_ai.store.rows import Answer

AGENTS = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from([b"1", b"2", b"3", b"4"])
PER_AGENT, TOTAL = 3 * OVERHEAD_BYTES + 3000, 6 * OVERHEAD_BYTES + 4000


def held_of(size: int) -> Held:
    line = b'{"model":"m","created_at":"2026-01-01T00:00:00Z","response":"%s","done":true}\n' % (b"x" * size)
    return Held(Answer(200, "application/x-ndjson", line, "lines", False, 0.0))


class Kept(RuleBasedStateMachine):
    """Within its caps whatever comes; what is found is what was put there last; one agent's flood evicts nobody smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(PER_AGENT, TOTAL)
        self.put: dict[tuple[str, bytes], Held] = {}

    @rule(agent=AGENTS, key=KEYS, size=st.sampled_from([0, 500, 2000, 10_000]))
    def is_kept(self, agent: str, key: bytes, size: int) -> None:
        held = held_of(size)
        sizes = {name: self.used(name) for name in "abc" if name != agent}
        self.memory.put(agent, key, held)
        self.put[agent, key] = held
        if held.size_bytes > min(PER_AGENT, TOTAL):
            assert self.memory.get(agent, key) is None
        own = self.used(agent)
        for name, before in sizes.items():
            assert self.used(name) == before or before >= own, f"{agent} pushed out what {name} had, who has less"

    @rule(agent=AGENTS, key=KEYS)
    def is_asked_for(self, agent: str, key: bytes) -> None:
        found = self.memory.get(agent, key)
        assert found is None or found is self.put[agent, key]

    @rule(agent=AGENTS, key=KEYS, is_stream=st.booleans())
    def is_given(self, agent: str, key: bytes, is_stream: bool) -> None:
        held = self.memory.get(agent, key)
        if held is not None:
            held.stream() if is_stream else held.single()
            self.memory.was_made(agent, key, held)

    @rule(agent=AGENTS, key=KEYS)
    def is_dropped(self, agent: str, key: bytes) -> None:
        self.memory.drop(agent, key)
        assert self.memory.get(agent, key) is None

    @rule()
    def is_cleared(self) -> None:
        before = self.memory.entries
        assert self.memory.clear() == before
        assert (self.memory.entries, self.memory.bytes) == (0, 0)

    def used(self, agent: str) -> int:
        return sum(held.size_bytes for held in self.memory._agents.get(agent, {}).values())

    @invariant()
    def caps_hold_and_the_count_is_true(self) -> None:
        assert self.memory.bytes == sum(self.used(agent) for agent in "abc") <= TOTAL
        assert all(self.used(agent) <= PER_AGENT for agent in "abc")
        assert self.memory._used == {agent: self.used(agent) for agent in self.memory._agents}


TestKept = Kept.TestCase
TestKept.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
