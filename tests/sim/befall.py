"""What each fault of the plan does to the world."""

from __future__ import annotations

import trio

from supervisord_ai.core.verdict import ExitStatus
from tests.sim.asks import MODEL, OTHER_MODEL
from tests.sim.callers import HALF, SLOW, Agent
from tests.sim.life import Life
from tests.sim.machine import BAD, GOOD, carry_over
from tests.sim.plan import TAKES_A_SLOT, Fault, Kind
from tests.sim.upstream import LOAD_S, MODELS
from tests.sim.world import BAD_CONFIGS, World

BOTH = 24  # who ask for the one model or the other when they no longer fit together
CUT_S = 0.5  # after a kill its calls are gone, and the next daemon is not there yet
SHORT_S = 90.0  # of memory, or of processors


class Befall:
    """Carries the faults out. What lasts for a while ends by a task of its own."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def fault(self, fault: Fault) -> None:
        world, upstream, size = self._world, self._world.upstream, fault.size
        match fault.kind:
            case Kind.KILL:
                lose = upstream.cut_at_work()
                self._kill(torn=None)
                if size > TAKES_A_SLOT:
                    world.later(CUT_S, lose)
            case Kind.POWER_CUT:
                self._kill(torn=size)
            case Kind.CACHE_DAMAGED:
                self._kill(torn=None, damages_cache=True)
            case Kind.STOP | Kind.LEAVE:
                if (life := self._serving()) is not None:
                    world.watch.told_to_end(stays=fault.kind is Kind.LEAVE)
                    await life.end(leaving=fault.kind is Kind.LEAVE)
            case Kind.ENGINE_CRASH:
                world.harm_running("the engine crashed")
                upstream.crash(size)
                world.later(size, self._listen_again)
            case Kind.ENGINE_HANG:
                world.harm_running("the engine hung")
                upstream.trouble(size + 120.0)
                upstream.hush()
                world.later(size, upstream.speak)
            case Kind.ENGINE_REFUSES:
                upstream.refuses += int(size)
            case Kind.CUT_STREAMS:
                upstream.cuts += int(size)
            case Kind.STALL:
                upstream.stalls += 1
            case Kind.DEAD_RUNNER:
                upstream.dies += int(size)
            case Kind.UNLOADED:
                world.harm_running("its model was unloaded")
                upstream.trouble()
                upstream.double.machine.scheduler.forget_all()
            case Kind.SLOW_LOAD:
                world.harm_running("its model was unloaded")
                upstream.trouble(2 * size)
                upstream.load_takes(size)
                upstream.double.machine.scheduler.forget_all()
                world.later(size + 60.0, lambda: upstream.load_takes(LOAD_S))
            case Kind.LOST_SLOT:
                upstream.trouble(240.0)
                world.counts["slots lost"] += upstream.lose_slot()
            case Kind.AGENT_CRASH:
                self._agents_end(int(size), ExitStatus(signal=11))
            case Kind.AGENT_OOM:
                self._agents_end(int(size), ExitStatus(signal=9), is_oom=True)
            case Kind.CHILD_OOM:
                for agent in self._some(int(size)):
                    process = world.process_of(agent.name)
                    if process is not None:
                        world.processes.takes_child(process)
                        world.watch.child_taken(agent.name)
            case Kind.FLOOD:
                for agent in self._some(1):
                    agent.ask(int(size))
            case Kind.LEAVERS:
                for agent in self._some(int(size)):
                    agent.ask(leaves=True)
            case Kind.SLOW_READERS:
                for agent in self._some(int(size)):
                    agent.ask(manner=SLOW)
            case Kind.HALF_CLOSE:
                for agent in self._some(int(size)):
                    agent.ask(manner=HALF)
            case Kind.NONSENSE:
                for agent in self._some(1):
                    agent.lie(int(size))
            case Kind.SPIKE:
                for agent in self._some(len(world.agents)):
                    agent.ask()
            case Kind.CLOCK_STEP:
                world.clock.step_s += size
                world.watch.clock_stepped()
            case Kind.DISK_FULL:
                world.disk_fills()
                world.later(size, world.disk_empties)
            case Kind.ROLLOUT:
                world.start(world.owner.roll_out, GOOD[world.program == GOOD[0]])
            case Kind.BAD_ROLLOUT:
                world.start(world.owner.roll_out, BAD)
            case Kind.RELOAD:
                if not world.owner.is_rolling:  # who joins now would have no past to go back to
                    world.resize(size)
                await self._reload()
            case Kind.BAD_RELOAD:
                await self._reload_badly(BAD_CONFIGS[fault.number % len(BAD_CONFIGS)])
            case Kind.MEMORY_SHORT:
                world.weather.short_of_memory(size)
                world.later(SHORT_S, world.weather.calm)
            case Kind.CROWDED:
                world.weather.crowded(size)
                world.later(SHORT_S, world.weather.calm)
            case Kind.VRAM_FULL:
                upstream.trouble(size)
                world.weather.full_vram(is_full=True)
                world.later(size, world.weather.calm)
            case Kind.NO_SENSORS:
                world.weather.silent()
                world.later(size, world.weather.calm)
            case Kind.SMALL_CARD:
                world.harm_running("its model was unloaded")
                upstream.trouble(size)
                upstream.double.machine.scheduler.forget_all()
                upstream.holds_models(1)
                world.later(size, lambda: upstream.holds_models(MODELS))
                for number, agent in enumerate(self._some(BOTH)):
                    agent.ask(model=(MODEL, OTHER_MODEL)[number % 2])
            case Kind.OWNER:
                world.start(world.owner.has_a_say, size)
            case Kind.WRONG:
                for agent in self._some(int(size)):
                    agent.be_wrong()
            case Kind.GUESTS:
                for _ in range(int(size)):
                    world.guest().ask()

    def _serving(self) -> Life | None:
        life = self._world.life
        return life if life is not None and life.serves else None

    def _listen_again(self) -> None:
        self._world.upstream.double.is_refusing = False

    def _some(self, count: int) -> list[Agent]:
        names = sorted(self._world.agents)
        return [self._world.agents[name] for name in self._world.rng.sample(names, min(count, len(names)))]

    async def _reload(self) -> None:
        if (life := self._serving()) is not None:
            await life.reload()

    async def _reload_badly(self, text: str) -> None:
        world, life = self._world, self._serving()
        before = life.running_config if life is not None else None
        world.written = text
        await self._reload()
        world.written = None
        if life is not None and life.running_config is not before:
            world.broken("D3", "a config with a mistake was taken")

    def _kill(self, *, torn: float | None, damages_cache: bool = False) -> None:
        world, life = self._world, self._world.life
        if life is None or life.is_dead or life.daemon is None:
            return
        following = world.next_home()
        with world.fullness.lifted():
            carry_over(life.home / "state", following / "state", life.disk, torn=torn)
            if damages_cache and (cache := following / "state" / "cache.db").exists():
                cache.write_bytes(b"not a database" * 1000)
        world.counts["kills"] += 1
        if torn is not None:  # nothing outlives the power
            world.processes.boot = f"boot {world.lives}"
            for process in world.processes.alive:
                world.processes.ends(process, ExitStatus(signal=9))
        world.upstream.daemon_died()
        world.watch.daemon_died()
        life.kill()

    def _agents_end(self, count: int, status: ExitStatus, *, is_oom: bool = False) -> None:
        processes = self._world.processes
        alive = [process for process in processes.alive if not process.is_held and not process.signals]
        for process in self._world.rng.sample(alive, min(count, len(alive))):
            self._world.watch.scripted_end(process, status, is_oom=is_oom)
            processes.ends(process, status, is_oom=is_oom)


async def live_through(world: World, ends_at: float, *, faults: tuple[Fault, ...]) -> None:
    """Meet every fault in its time, and the end."""
    befall = Befall(world)
    for fault in faults:
        await trio.sleep_until(world.watch.began_at + fault.at_s)
        world.tell(f"fault {fault}")
        world.counts["faults"] += 1
        world.counts[f"fault: {fault.kind.value}"] += 1
        world.stir(fault.size if fault.size < 1000 else 0.0)
        await befall.fault(fault)
    await trio.sleep_until(ends_at)
