"""The table of figures and the code that fills it say the same."""

from __future__ import annotations

from supervisord_ai.agents.view import FleetPulse
from supervisord_ai.clock import VirtualClock
from supervisord_ai.control.figures import Figures
from supervisord_ai.control.report import Usage
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.effects import Level
from supervisord_ai.core.figures import FIGURES, find_figure
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.samples import Gpu, Load, Machine, Sample
from supervisord_ai.gateway.view import BackendPulse, GatewayPulse, Totals
from supervisord_ai.health.view import ComponentView, LevelView

MB = 10**6
MACHINE = Machine(available_bytes=3000 * MB, swap_used_bytes=5 * MB, gpus=(Gpu("a", 100, 40, 0.1), Gpu("b", 100, 90, None)))
COMPONENTS = (ComponentView("queue", 0.3, 0.1, ""), ComponentView("memory", 0.9, 0.8, ""), ComponentView("cpu", None, None, ""))
LEVEL = LevelView(
    level=Level.MAJOR, decided=Level.CRITICAL, since_s=1.0, reason="", cause="memory", components=COMPONENTS, pin=None,
    is_shadow=False, steps=(), down_in_s=None, policy=LevelsPolicy(),
)  # fmt: skip


class Still(VirtualClock):
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def figures(
    clock: Still, *, sample: Sample | None = None, gateway: GatewayPulse = GatewayPulse(), fleet: FleetPulse = FleetPulse()  # noqa: B008
) -> Figures:
    return Figures(
        sample=lambda: sample,
        fleet=lambda: fleet,
        gateway=lambda: gateway,
        level=lambda: LEVEL,
        usage=lambda: Usage(rss_bytes=55 * MB, cpu_s=1.0),
        disk_free_bytes=lambda: None,
        reserve_bytes=2000 * MB,
        clock=clock,
    )


def test_every_figure_of_the_table_is_told_and_no_other() -> None:
    gateway = GatewayPulse(backends=(BackendPulse("main", "ready", "closed", 2),))
    told = figures(Still(), gateway=gateway)()
    assert {name.replace("main", "*") for name in told} == {figure.name for figure in FIGURES}


def test_a_word_is_told_where_the_table_says_word_and_one_of_its_words() -> None:
    gateway = GatewayPulse(backends=(BackendPulse("main", "unreachable", "half-open", 2),))
    for name, value in figures(Still(), gateway=gateway)().items():
        found = find_figure(name)
        assert found is not None
        if found[0].is_word:
            assert value in found[0].words
        else:
            assert not isinstance(value, str)


def test_the_figures_are_those_of_the_rooms() -> None:
    fleet = FleetPulse({AgentState.RUNNING: 9, AgentState.QUARANTINED: 1, AgentState.BACKOFF: 2}, shed=("a", "b"))
    gateway = GatewayPulse(backends=(BackendPulse("main", "waiting", "open", 0),), queued=7, queued_async=3, running=2)
    sample = Sample(0.0, 0.0, MACHINE, Load(oldest_s=42.0))
    told = figures(Still(), sample=sample, gateway=gateway, fleet=fleet)()
    expected = {
        "level": 2.0,
        "pressure.cpu": None,
        "pressure.memory": 0.8,
        "queue.oldest_s": 42.0,
        "queue.queued": 7.0,
        "agents.running": 9.0,
        "agents.shed": 2.0,
        "backends.down": 1.0,
        "backend.main.breaker": "open",
        "memory.available_mb": 3000.0,
        "memory.of_reserve": 1.5,
        "memory.daemon_mb": 55.0,
        "gpu.vram_used": 0.9,
        "disk.free_mb": None,
    }
    assert {name: told[name] for name in expected} == expected


def test_without_a_sample_nothing_is_known_of_the_machine() -> None:
    told = figures(Still())()
    assert (told["memory.available_mb"], told["gpu.vram_used"]) == (None, None)


def test_what_is_counted_is_told_by_the_minute() -> None:
    clock = Still()
    counted = [Totals()]
    ask = Figures(
        sample=lambda: None,
        fleet=FleetPulse,
        gateway=lambda: GatewayPulse(totals=counted[0]),
        level=lambda: LEVEL,
        usage=lambda: Usage(0, 0.0),
        disk_free_bytes=lambda: 5 * MB,
        reserve_bytes=0,
        clock=clock,
    )
    for second in range(200):
        clock.now = float(second)
        counted[0] = Totals(refused=second * 2, failed=min(second, 100))
        ask()
    told = ask()
    assert told["requests.refused_per_min"] == 120.0
    assert told["requests.failed_per_min"] == 0.0
    assert told["memory.of_reserve"] is None
