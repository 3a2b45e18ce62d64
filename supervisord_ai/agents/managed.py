"""Keeps an engine running: the embedded one, or the Ollama of a backend's `command`.

    cage and number -> spawn -> journal -> go -> answers: ready -> ended: everyone else in the cage too, verdict -> backoff

The embedded engine's standard input is its lifeline: it ends at end of file, so it cannot outlive the daemon, whatever kills
that. An Ollama knows nothing of us and outlives us with its port, its runners and the models they hold. So it has a cage and a
row in the journal like an agent, and the next daemon takes it over like one (`adopt`): a restart of ours loads no model again.
One that would be started otherwise now, or cannot be watched, is ended with the other survivors before another is started.

An engine is never shed and never given up: without it nobody is answered. The embedded one is the exception on its first
start: it came with us, so trying again would not help.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from logging import getLogger

import trio

from supervisord_ai.agents.engine_life import Kept, Life
from supervisord_ai.agents.environment import RUN_TAG
from supervisord_ai.agents.generation import KILL_S
from supervisord_ai.agents.launches import EngineLaunch
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.clock import Clock
from supervisord_ai.core.cap import CapDeed, CapWatch
from supervisord_ai.core.policies import MB, RestartPolicy
from supervisord_ai.core.verdict import OWN_CAP, ExitStatus, Verdict, decide
from supervisord_ai.duty import every
from supervisord_ai.errors import HostFault, SpawnFailed, StoreFault, UpstreamFault
from supervisord_ai.host import signals
from supervisord_ai.host.cgroup import Cage, Counters
from supervisord_ai.host.process import Launch, ProcessDoor, ProcessHandle
from supervisord_ai.store.rows import AgentRecord

log = getLogger(__name__)

Probe = Callable[[], Awaitable[object]]

PROBE_EVERY_S = 0.1
PROBE_TIMEOUT_S = 2.0
LOOK_S = 1.0  # at its memory, where no group limits it; and whether somebody else still has its address
ROTATE_S = 10.0


class EngineState(StrEnum):
    """What a managed engine is doing."""

    STOPPED = "stopped"
    BLOCKED = "blocked"  # somebody else answers at its address
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"


@dataclass(frozen=True, slots=True)
class EngineView:
    """A managed engine as it is now. `detail` says how its last life ended, or what it waits for."""

    name: str
    state: EngineState = EngineState.STOPPED
    pid: int | None = None
    restarts: int = 0
    detail: str = ""
    log_path: str = ""
    memory_bytes: int | None = None
    cap_bytes: int | None = None


class ManagedEngine:
    """The one writer of an engine's state."""

    def __init__(
        self,
        launch: EngineLaunch,
        *,
        processes: ProcessDoor,
        logs: LogFolder,
        clock: Clock,
        restart: RestartPolicy,
        rng: random.Random,
        kept: Kept | None = None,
        ready_within_s: float = 120.0,
        grace_s: float = 3.0,
    ) -> None:
        self.launch = launch
        self._processes = processes
        self._logs = logs
        self._clock = clock
        self._restart = restart
        self._rng = rng
        self._kept = kept
        self._ready_within_s = ready_within_s
        self._grace_s = grace_s
        self._view = EngineView(launch.name, log_path=str(logs.path(launch.name)), cap_bytes=launch.cap_bytes)
        self._left: Life | None = None  # by an earlier supervisor
        # of the life it has now
        self._number = 0
        self._intent: str | None = None
        self._told_to_end = trio.Event()
        self._has_answered = False
        self._is_wanted_at_once = False
        self._is_let_be = False

    def __repr__(self) -> str:
        return f"<engine {self.launch.name} {self._view.state} pid={self._view.pid} restarts={self._view.restarts}>"

    @property
    def _is_ours(self) -> bool:
        return self.launch.secret is not None

    @property
    def pid(self) -> int | None:
        """Its process, None while there is none."""
        return self._view.pid

    def statistics(self) -> EngineView:
        """Return it as it is now; memory is read from its cage."""
        if self._kept is None or self._view.pid is None:
            return self._view
        return replace(self._view, memory_bytes=self._kept.cage.counters().memory_bytes)

    def in_words(self) -> str:
        """Return it in one line for people."""
        view = self.statistics()
        words = [f"{view.name} {view.state}"]
        if view.pid is not None:
            words.append(f"pid {view.pid}")
        if view.memory_bytes is not None and view.cap_bytes:
            words.append(f"{view.memory_bytes // MB} of {view.cap_bytes // MB} MB")
        if view.restarts:
            words.append(f"{view.restarts} restarts")
        if view.detail:
            words.append(view.detail)
        if view.state not in {EngineState.READY, EngineState.BLOCKED}:
            words.append(f"its log is {view.log_path}")
        return ", ".join(words)

    def restart(self, reason: str) -> None:
        """End the life it has and begin the next at once. Does nothing while it has none: the next is due anyway."""
        if self._view.pid is not None and self._view.state in {EngineState.STARTING, EngineState.READY}:
            self._is_wanted_at_once = True
            self._end_it(reason)

    def let_be(self) -> None:
        """When its task is cancelled, it is not ended: its lifeline ends it, or it is the next daemon's."""
        self._is_let_be = True

    def is_of(self, record: AgentRecord) -> bool:
        """Tell whether the life that is written down is one that we would begin, and nobody was about to end."""
        return self._kept is not None and record.digest == self.launch.digest and record.intent is None

    def adopt(self, record: AgentRecord, child: ProcessHandle, cage: Cage) -> None:
        """Have a life that an earlier supervisor began be our first. Call it before `run`."""
        assert self._kept is not None
        assert record.baseline is not None
        self._kept = replace(self._kept, cage=cage)
        self._number = record.generation
        cage.started(child.pid)
        try:
            cage.limit(self.launch.cap_bytes)
        except HostFault as exc:
            log.warning("%s goes without its new cap for now: %s", self.launch.name, exc)
        self._left = Life.left(child, record.baseline)

    # --- the task ---

    async def run(self, probe: Probe, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it running until cancelled, then end it. Reports started when it first answers.

        `probe` asks it anything cheap (its version) and raises UpstreamFault while it does not answer.

        Raises:
            HostFault: the embedded engine ended before it ever answered. Trying again would not help, and its log says why.
        """
        if self.launch.socket is not None:
            self.launch.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        has_ever_answered = False
        failures = 0
        while True:
            if not self._is_ours and self._left is None:
                await self._until_free(probe)
            began = self._clock.monotonic()
            verdict = await self._live(probe, trio.TASK_STATUS_IGNORED if has_ever_answered else task_status)
            has_ever_answered |= self._has_answered
            how = f"{verdict.word} ({verdict.detail})" if verdict.detail else verdict.word
            if self._is_ours and not has_ever_answered:
                self._show(EngineState.STOPPED, detail=how)
                raise HostFault(f"the embedded engine ended before it answered: {how}; its log is {self._view.log_path}")
            now = self._clock.monotonic()
            failures = failures + 1 if now - began < self._restart.window_s else 1
            delay_s = self._rng.uniform(0.0, min(self._restart.max_s, self._restart.base_s * 2.0 ** min(failures - 1, 30)))
            if self._is_wanted_at_once:
                delay_s = 0.0  # it did not fail, it was told to end
            log.warning("%s ended after %.1f s: %s; starting it again in %.1f s", self.launch.name, now - began, how, delay_s)
            self._show(EngineState.BACKOFF, detail=how)
            await trio.sleep(delay_s)
            self._view = replace(self._view, restarts=self._view.restarts + 1)

    async def _until_free(self, probe: Probe) -> None:
        """Return when nobody answers at its address. Started beside another, it would end of it, over and over."""
        while await _answers(probe):
            if self._view.state is not EngineState.BLOCKED:
                what = f"another Ollama answers at {self.launch.url} already: stop it, or take `command` out of the config"
                log.error("%s is not started: %s", self.launch.name, what)
                self._show(EngineState.BLOCKED, detail=what)
            await trio.sleep(LOOK_S)

    async def _live(self, probe: Probe, task_status: trio.TaskStatus[None]) -> Verdict:
        """One life, from spawn or adoption to verdict; whatever interrupts it, nothing of it is left."""
        self._intent, self._told_to_end, self._has_answered, self._is_wanted_at_once = None, trio.Event(), False, False
        self._show(EngineState.STARTING, detail=self._view.detail)
        life, self._left = self._left, None
        try:
            life = life or await self._spawn()
        except (HostFault, StoreFault) as exc:
            word, detail = (exc.verdict, exc.detail) if isinstance(exc, SpawnFailed) else ("failed:cage", str(exc))
            await self._write_end(Verdict(word, detail))
            return Verdict(word, detail)
        child = life.child
        self._show(EngineState.STARTING, child.pid, self._view.detail)
        status, verdict = ExitStatus(), Verdict("stopped:let-be")
        is_interrupted = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce, life, probe, task_status)
                nursery.start_soon(self._end_when_told, child)
                nursery.start_soon(every, ROTATE_S, f"rotating the log of {self.launch.name}", self._rotate)
                if self._kept is not None and self._kept.is_only_sampled and self.launch.cap_bytes is not None:
                    nursery.start_soon(self._watch_memory, self._kept.cage, CapWatch(self.launch.cap_bytes))
                status = await child.wait()
                nursery.cancel_scope.cancel()
            is_interrupted = False
        finally:
            if not (is_interrupted and self._is_let_be):
                with trio.CancelScope(shield=True):
                    if is_interrupted:
                        self._intend("shutdown")
                    verdict = await self._end(life, status if not is_interrupted else None)
        return verdict

    # --- its beginning ---

    async def _spawn(self) -> Life:
        """Start a child."""
        launch, kept = self.launch, self._kept
        environ = dict(launch.environ)
        tag = f"{launch.name}.{secrets.token_hex(8)}"
        before = Counters()
        account = self._processes.account(launch.user)
        if kept is not None:
            self._number = await kept.journal.next_generation(launch.name, launch.digest)
            if left := await kept.cage.kill(within_s=KILL_S):
                raise SpawnFailed("failed:cage", f"processes {', '.join(map(str, left))} of its last run do not end when killed")
            kept.cage.prepare(launch.cap_bytes or 0, tag)
            before = kept.cage.counters()
            environ[RUN_TAG] = tag
        with self._logs.appending(launch.name) as (log_fd, log_offset):
            child = await self._processes.spawn(
                Launch(
                    argv=launch.argv,
                    env=environ,
                    cwd=None if self._is_ours else "/",
                    stdout_fd=log_fd,
                    stderr_fd=log_fd,
                    stdin="pipe" if self._is_ours else None,
                    join_files=() if kept is None else kept.cage.join_files,
                    rlimits=() if kept is None else kept.cage.rlimits,
                    account=account,
                ),
                hold=kept is not None,
            )
        life = Life(child, before, log_offset)
        if kept is not None:
            kept.cage.started(child.pid)
            try:
                baseline = life.baseline(launch, wall_s=self._clock.wall(), uid=account.uid)
                facts = child.pid, child.start_ticks, kept.boot_id, kept.cage.record, tag
                await kept.journal.started(launch.name, self._number, *facts, baseline)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._kill(child)
                raise
            child.go()
        return life

    async def _announce(self, life: Life, probe: Probe, task_status: trio.TaskStatus[None]) -> None:
        """Hand over the secret, then tell when it answers; one that does not in time is killed, for its wait to see."""
        child, began = life.child, self._clock.monotonic()
        if self.launch.secret is not None:
            assert child.stdin is not None
            try:
                await child.stdin.send_all(self.launch.secret.encode() + b"\n")
            except trio.BrokenResourceError:
                return  # it has ended already
        with trio.move_on_after(self._ready_within_s) as waiting:
            while not await _answers(probe):  # noqa: ASYNC110 - another process: there is no event to wait for
                await trio.sleep(PROBE_EVERY_S)
        if waiting.cancelled_caught:
            self._intend(f"no answer within {self._ready_within_s:.0f} s")
            log.error("%s (%d): %s", self.launch.name, child.pid, self._intent)
            child.signal(signals.KILL)
            return
        if self._intent is not None:
            return
        self._has_answered = True
        self._show(EngineState.READY, child.pid)
        name, took_s = self.launch.name, self._clock.monotonic() - began
        how = "goes on: it answers" if life.is_adopted else "answers"
        log.info("%s (%d) %s at %s after %.1f s", name, child.pid, how, self.launch.url, took_s)
        task_status.started()

    # --- its life ---

    async def _rotate(self) -> None:
        if self._logs.is_due(self.launch.name):
            await trio.to_thread.run_sync(self._logs.rotate, self.launch.name)

    async def _watch_memory(self, cage: Cage, watch: CapWatch) -> None:
        """Somebody else has the processes counted; what was counted last is judged here."""
        while True:
            await trio.sleep(LOOK_S)
            used = cage.counters().memory_bytes
            if used is not None and watch.judge(used) is not CapDeed.NOTHING:
                self._end_it(OWN_CAP)

    # --- its end ---

    def _end_it(self, reason: str) -> None:
        self._intend(reason)
        self._told_to_end.set()

    def _intend(self, reason: str) -> None:
        """Write down why it is about to be ended; the first reason stays."""
        if self._intent is None:
            self._intent = reason
            if self._kept is not None:
                self._kept.journal.intent(self.launch.name, self._number, reason)

    async def _end_when_told(self, child: ProcessHandle) -> None:
        await self._told_to_end.wait()
        log.info("%s (%d) is told to end: %s", self.launch.name, child.pid, self._intent)
        self._show(EngineState.STOPPING, child.pid, f"ended for: {self._intent}")
        await self._terminate(child)
        await trio.sleep(self._grace_s)
        child.signal(signals.KILL)

    async def _terminate(self, child: ProcessHandle) -> None:
        """Close its lifeline where it has one, else TERM for all of it; a stopped process acts on that when it runs again."""
        if self._kept is not None:
            await self._kept.cage.signal(signals.TERM)  # its runners too, and what a shell around it started
            await self._kept.cage.signal(signals.CONT)
        elif child.stdin is not None:
            await child.stdin.aclose()
        else:
            child.signal(signals.TERM)
            child.signal(signals.CONT)

    async def _end(self, life: Life, status: ExitStatus | None) -> Verdict:
        """See to it that nothing is left, and judge. Called once, also for one that ended by itself."""
        child, was_killed = life.child, False
        if status is None:
            await self._terminate(child)
            with trio.move_on_after(self._grace_s) as grace:
                status = await child.wait()
            was_killed = grace.cancelled_caught
        if status is None:
            log.warning("%s (%d) did not end within %.1f s: killed", self.launch.name, child.pid, self._grace_s)
            child.signal(signals.KILL)
            status = await child.wait()
        if child.stdin is not None:
            await child.stdin.aclose()
        left: tuple[int, ...] = ()
        after = life.before
        if self._kept is not None:
            # Its runners hold the models and the GPU; an Ollama that crashed leaves them behind.
            try:
                left = await self._kept.cage.kill(within_s=KILL_S)
            except HostFault as exc:
                log.error("%s: %s", self.launch.name, exc)
            after = self._kept.cage.counters()
        child.close()
        verdict = decide(
            life.evidence(
                status,
                after,
                launch=self.launch,
                intent=self._intent,
                was_killed=was_killed,
                is_only_sampled=self._kept is not None and self._kept.is_only_sampled,
                last_lines=self._logs.tail(self.launch.name, since=life.log_offset),
            )
        )
        if left:
            log.error("%s: processes %s do not end when killed", self.launch.name, ", ".join(map(str, left)))
        await self._write_end(verdict)
        self._show(EngineState.STOPPED, detail=verdict.detail)
        return verdict

    async def _write_end(self, verdict: Verdict) -> None:
        if self._kept is None:
            return
        with suppress(StoreFault):  # the next daemon then finds nobody, and says so
            detail = "\n".join((verdict.detail, *verdict.last_lines))
            await self._kept.journal.ended(self.launch.name, self._number, verdict.word, detail)

    async def _kill(self, child: ProcessHandle) -> None:
        with trio.move_on_after(KILL_S):
            child.signal(signals.KILL)
            await child.wait()
            child.close()

    def _show(self, state: EngineState, pid: int | None = None, detail: str = "") -> None:
        self._view = replace(self._view, state=state, pid=pid, detail=detail)


async def _answers(probe: Probe) -> bool:
    with trio.move_on_after(PROBE_TIMEOUT_S):
        try:
            await probe()
        except UpstreamFault:
            return False
        return True
    return False


__all__ = ["EngineLaunch", "EngineState", "EngineView", "Kept", "ManagedEngine"]
