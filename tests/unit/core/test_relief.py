"""What is given up when memory runs short, in which order, and when it comes back; in made-up time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.relief import (
    AdmitAll,
    AdmitUrgent,
    Deed,
    DropCache,
    FleetRoom,
    MemoryReading,
    PauseStarts,
    Relief,
    ReliefPolicy,
    RestoreAgent,
    ResumeStarts,
    ShedAgents,
    Step,
)

GB = 10**9
POLICY = ReliefPolicy(reserve_bytes=2 * GB)
FULL = FleetRoom(sheddable=95)


@dataclass
class Machine:
    """Readings once a second, and what was decided at which."""

    relief: Relief = field(default_factory=lambda: Relief(POLICY))
    now: float = 0.0
    told: list[tuple[float, Deed]] = field(default_factory=list)

    def see(self, available_gb: float, *, seconds: int = 1, fleet: FleetRoom = FULL, **more: float | int) -> list[Deed]:
        """Return what was decided while it was like this."""
        found: list[Deed] = []
        reading = MemoryReading(round(available_gb * GB), **more)  # type: ignore[arg-type]
        for _ in range(seconds):
            found += self.relief.judge(reading, fleet, self.now)
            self.now += 1.0
        self.told += [(self.now, deed) for deed in found]
        return found


def standing(machine: Machine) -> Step:
    return machine.relief.step


def kinds(deeds: list[Deed]) -> list[type[Deed]]:
    return [type(deed) for deed in deeds]


def test_a_machine_with_enough_memory_gives_up_nothing() -> None:
    assert Machine().see(2.1, seconds=3600) == []
    assert Machine().see(2.0, seconds=3600) == [], "the reserve itself is enough"


def test_a_step_is_taken_every_two_seconds_in_the_written_order() -> None:
    machine = Machine()
    assert machine.see(1.9) == [PauseStarts()]
    assert machine.see(1.9) == []
    assert machine.see(1.9) == [DropCache()]
    assert machine.see(1.9) == []
    assert machine.see(1.9) == [ShedAgents(300_000_000)]


def test_close_to_the_end_all_steps_come_at_once_and_still_in_order() -> None:
    assert kinds(Machine().see(1.0)) == [PauseStarts], "half of the reserve is not below it"
    machine = Machine(now=1000.0)
    assert kinds(machine.see(0.9)) == [PauseStarts, DropCache, ShedAgents]
    assert machine.see(0.9) == [], "who was told a moment ago is still ending"
    assert kinds(machine.see(0.9)) == [ShedAgents]


def test_one_short_breath_pauses_the_starts_and_no_more() -> None:
    machine = Machine()
    assert machine.see(1.9) == [PauseStarts()]
    assert machine.see(2.5, seconds=1000) == [], "neither short nor calm: nothing moves"


def test_requests_are_turned_away_only_when_nobody_is_left_to_shed() -> None:
    machine = Machine()
    machine.see(1.9, seconds=5)
    assert machine.see(1.9, seconds=4, fleet=FleetRoom(ending=3, shed=3)) == [], "what they hold is on its way"
    assert machine.see(1.9, seconds=2, fleet=FleetRoom(shed=3)) == [AdmitUrgent()]
    assert machine.see(1.9, seconds=100, fleet=FleetRoom(shed=3)) == []


def test_a_minute_of_calm_gives_everything_back_in_the_reverse_order() -> None:
    machine = Machine()
    machine.see(1.9, seconds=7, fleet=FleetRoom(shed=0))
    assert standing(machine) is Step.ADMIT
    assert machine.see(4.0, seconds=60, fleet=FleetRoom(shed=2)) == []
    assert machine.see(4.0, seconds=1, fleet=FleetRoom(shed=2)) == [AdmitAll()]
    assert machine.see(4.0, seconds=5, fleet=FleetRoom(shed=2)) == [RestoreAgent(1_500_000_000)]
    assert machine.see(4.0, seconds=5, fleet=FleetRoom(shed=1)) == [RestoreAgent(1_500_000_000)]
    assert machine.see(4.0, seconds=5, fleet=FleetRoom(shed=0)) == [ResumeStarts()]
    assert standing(machine) is Step.NOTHING
    assert machine.see(4.0, seconds=1000) == []


def test_a_breath_that_is_not_calm_starts_the_minute_anew() -> None:
    machine = Machine()
    machine.see(1.9, seconds=5)
    machine.see(4.0, seconds=59)
    machine.see(2.5)
    assert machine.see(4.0, seconds=60) == []
    assert kinds(machine.see(4.0, seconds=1, fleet=FleetRoom(shed=1))) == [RestoreAgent]


def test_calm_begins_at_half_as_much_again_as_the_reserve() -> None:
    for available_gb, is_calm in ((2.9, False), (3.0, True)):
        machine = Machine()
        machine.see(1.9)
        assert bool(machine.see(available_gb, seconds=61, fleet=FleetRoom())) is is_calm


def test_nobody_is_brought_back_into_room_that_is_not_there() -> None:
    machine = Machine(Relief(ReliefPolicy(reserve_bytes=2 * GB, calm_ratio=1.0, room_ratio=1.5)))
    machine.see(1.9, seconds=5)
    assert machine.see(2.5, seconds=61, fleet=FleetRoom(shed=1)) == [RestoreAgent(0)]


def test_thrashing_counts_only_where_memory_is_not_plenty() -> None:
    assert kinds(Machine().see(5.0, refaulted_per_s=21e6)) == [PauseStarts]
    assert kinds(Machine().see(5.0, waiting=0.2)) == [PauseStarts]
    assert Machine().see(6.1, refaulted_per_s=300e6, waiting=0.9) == [], "a big copy reads pages back too"
    assert Machine().see(6.0, refaulted_per_s=300e6, waiting=0.9) == []
    assert Machine().see(5.0, refaulted_per_s=20e6, waiting=0.10) == []


def test_a_fleet_that_runs_into_its_own_limit_is_relieved_with_memory_to_spare() -> None:
    machine = Machine()
    assert machine.see(20.0, fleet_limit_hits=7) == [], "the hits of another life"
    assert machine.see(20.0, fleet_limit_hits=7) == []
    assert kinds(machine.see(20.0, fleet_limit_hits=8)) == [PauseStarts]
    found = [deed for hits in range(9, 14) for deed in machine.see(20.0, fleet_limit_hits=hits)]
    assert found == [DropCache(), ShedAgents(1)], "there is no number to reach: one at a time"


def test_a_reserve_of_nothing_turns_relief_off() -> None:
    machine = Machine(Relief(ReliefPolicy(reserve_bytes=0)))
    assert machine.see(0.0, seconds=100) == []


def test_the_reason_is_in_words_and_gone_with_the_trouble() -> None:
    machine = Machine()
    machine.see(1.9)
    assert machine.relief.reason == "1900 MB available, the reserve is 2000 MB"
    machine.see(4.0, seconds=70, fleet=FleetRoom())
    assert machine.relief.reason == ""
    machine.see(5.0, refaulted_per_s=21e6)
    assert machine.relief.reason == "21 MB a second come back that had just been given up"


READINGS = st.lists(
    st.tuples(st.floats(0.0, 6.0), st.integers(1, 90), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=40
)


@settings(max_examples=300, deadline=None)
@given(READINGS)
def test_no_history_breaks_the_order_gives_back_early_or_leaves_anything_behind(
    history: list[tuple[float, int, int, int, int]],
) -> None:
    machine = Machine()
    begun: dict[type[Deed], float] = {}
    last_short = float("-inf")
    given_back_at = float("-inf")
    for available_gb, seconds, sheddable, ending, shed in history:
        for _ in range(seconds):
            now = machine.now
            deeds = machine.see(available_gb, fleet=FleetRoom(sheddable, ending, shed))
            if available_gb < 2.0:
                last_short = now
            for deed in deeds:
                match deed:
                    case PauseStarts():
                        assert not begun
                    case DropCache():
                        assert set(begun) == {PauseStarts}
                    case ShedAgents(need_bytes):
                        assert {PauseStarts, DropCache} <= set(begun)
                        assert need_bytes > 0
                        assert sheddable
                    case AdmitUrgent():
                        assert {PauseStarts, DropCache} <= set(begun)
                        assert not sheddable
                        assert not ending
                    case AdmitAll():
                        assert AdmitUrgent in begun
                        del begun[AdmitUrgent]
                    case RestoreAgent():
                        assert AdmitUrgent not in begun
                    case ResumeStarts():
                        assert AdmitUrgent not in begun
                        begun.clear()
                if isinstance(deed, PauseStarts | DropCache | ShedAgents | AdmitUrgent):
                    begun[type(deed)] = now
                else:
                    assert now - last_short > POLICY.calm_s
                    assert now - given_back_at >= POLICY.restore_every_s
                    given_back_at = now
    machine.see(6.0, seconds=200, fleet=FleetRoom())
    assert standing(machine) is Step.NOTHING
