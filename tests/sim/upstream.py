"""What the double says to whom, how it fails, and what it saw: the far end of every request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import trio

from tests.fakes.ollama_double import Ask, Double, DoubleOptions, Leaks, ModelSpec, Script, embedding_model
from tests.sim.asks import EMBEDDER, MODEL, OTHER_MODEL, SLACK_S, TELLING, Asked, End, Shape, named_in

SLOTS = 2
LOAD_S = 2.0
TELLINGS = 50_000
ORPHAN_GRACE_S = 60.0
CLOSED_WITHIN_S = 2.0
LOADS_IN_A_ROW = 2  # a call may wait in the engine for the model of another first
RECOVERED_S = 330.0  # no row of before the start waits longer, but an asynchronous one
TOKEN_S = 1.1
SMALL, MODELS = 2, 3  # models that fit into the card: fewer than there are, or all
BUSY = "server busy, please try again.  maximum pending requests exceeded"


class Upstream:
    """An Ollama with the leaks of the real one. `find` returns who asked a thing that reaches it."""

    def __init__(
        self,
        find: Callable[[str, int], list[Asked]],
        broken: Callable[[str, str], None],
        started: Callable[[Asked, float], None],
    ) -> None:
        self._started = started
        options = DoubleOptions(
            load_s=LOAD_S,
            first_token_s=TOKEN_S,
            token_delay_s=TOKEN_S,
            embed_s=0.75,
            leaks=Leaks(on_slow_disconnect=True, on_pending_cancel=True),
        )
        self.double = Double([ModelSpec(MODEL), ModelSpec(OTHER_MODEL), embedding_model(EMBEDDER)], options)
        self.double.script = self._script
        self._find = find
        self._broken = broken
        self.refuses = self.cuts = self.dies = self.stalls = 0  # so many of the calls to come
        self.troubled_until = 0.0  # whoever asked before this moment may have met a fault
        self.of_the_dead = 0  # calls of a daemon that was killed, and that the double still has
        self.last_end_at = float("-inf")  # of a daemon
        self.last_start_at = 0.0
        self.woke_at = float("-inf")
        self.calls = 0
        self.peak = 0
        self.hushed_at = float("inf")
        self._contexts: dict[str, int] = {}  # by model, since it was first seen
        self._topic_calls: dict[tuple[str, str, int], tuple[float, list[Asked]]] = {}
        self._tellings: OrderedDict[int, str] = OrderedDict()  # number of an answer -> the model that gave it

    def trouble(self, lasting_s: float = 0.0) -> None:
        """Note that from now on, and for so long, failures are explained."""
        self.troubled_until = max(self.troubled_until, trio.current_time() + lasting_s + 60.0)

    def crash(self, for_s: float) -> None:
        """The engine ends with all it has; who dials is refused until it is there again."""
        self.trouble(for_s)
        self.double.is_refusing = True
        self.double.restart()
        self.of_the_dead = self.double.machine.in_flight  # handlers that its leaks hold for ever are gone with it

    def daemon_died(self) -> None:
        """Its calls are leavers: the double needs a moment to notice."""
        self.last_end_at = trio.current_time()
        self.of_the_dead = self.double.machine.in_flight

    def _script(self, ask: Ask) -> Script | None:
        self.calls += 1
        self._count(ask)
        named = named_in(ask)
        self._judge_runner(ask)
        if named is None:
            return Script(tokens=("ok ",))
        askers = self._find(*named)
        now = trio.current_time()
        for asked in askers:
            if now not in asked.starts:  # an embed is asked about for each of its inputs
                asked.starts.append(now)
        if named[0] == "#":
            self._judge_start(askers[0], now)
        elif ask.path.startswith("/api/") and askers[0].shape is not Shape.EMBED:
            self._judge_twins((ask.path, ask.model, named[1]), askers, now)
        model = ask.model.removesuffix(":latest")
        for asked in askers:
            asked.served.add(model)
        self._tellings[self.calls] = model
        if len(self._tellings) > TELLINGS:
            self._tellings.popitem(last=False)
        return self._fault(askers) or self._well(askers[0])

    def served_by(self, said: str) -> str | None:
        """Return the model that gave an answer; None where it gave no words, or long ago."""
        told = TELLING.search(said)
        return self._tellings.get(int(told[1])) if told is not None else None

    def lose_slot(self) -> bool:
        """One slot of a loaded model is lost, as a leaver behind an unread stream loses it. False where none is free."""
        for runner in self.double.machine.scheduler.loaded.values():
            try:
                runner._slots.acquire_nowait()
            except trio.WouldBlock:
                continue
            runner.lost += 1
            return True
        return False

    def cut_at_work(self) -> Callable[[], None]:
        """Calls are about to be cut. Return what has one of them take its slot along, once it is gone."""
        working = [runner for runner in self.double.machine.scheduler.loaded.values() if runner.running]

        def lose() -> None:
            for runner in working:
                if runner in self.double.machine.scheduler.loaded.values() and runner._slots.value:
                    runner._slots.acquire_nowait()
                    runner.lost += 1
                    return

        return lose

    def load_takes(self, seconds: float) -> None:
        scheduler = self.double.machine.scheduler
        scheduler._options = replace(scheduler._options, load_s=seconds)

    @property
    def busy(self) -> int:
        """Slots that work at this instant."""
        return sum(runner.running for runner in self.double.machine.scheduler.loaded.values())

    def _count(self, ask: Ask) -> None:
        machine = self.double.machine
        self.of_the_dead = min(self.of_the_dead, machine.in_flight)
        # Calls that wait for a model in there are open until it is there, and whoever closed his has let go of it.
        ours = machine.in_flight - max(self.of_the_dead, machine.scheduler.deserted)
        self.peak = max(self.peak, ours)
        if ours > SLOTS + (self.double.machine.scheduler.loading is not None):
            self._broken("G1", f"{ours} calls at once at an Ollama of {SLOTS} slots, the last for {ask.model}")

    def holds_models(self, count: int) -> None:
        """So many models fit into the card from now on."""
        scheduler = self.double.machine.scheduler
        scheduler._options = replace(scheduler._options, max_loaded=count)

    def hush(self) -> None:
        """The engine hangs: it accepts, reads, and answers nothing."""
        self.hushed_at = trio.current_time()
        self.double.hush()

    def speak(self) -> None:
        """The engine wakes up, and reads what it was given before it slept."""
        self.hushed_at = float("inf")
        self.woke_at = trio.current_time()
        self.double.speak()

    def _judge_runner(self, ask: Ask) -> None:
        """Whatever contexts and keep_alives are asked for, a model keeps the runner that it has."""
        scheduler = self.double.machine.scheduler
        for runner in scheduler.loaded.values():
            if runner.spec.name != ask.model:
                continue
            if (context := self._contexts.setdefault(ask.model, runner.settings.num_ctx)) != runner.settings.num_ctx:
                self._broken("G11", f"{ask.model} runs with num_ctx {runner.settings.num_ctx}, and ran with {context}")
            if runner.session_s <= 0 and scheduler._options.max_loaded > SMALL:
                self._broken("G11", f"{ask.model} is to be unloaded as soon as this call is over: {ask.prompt}")

    def _judge_twins(self, what: tuple[str, str, int], askers: list[Asked], now: float) -> None:
        """What many ask at once, and may share, is one call."""
        at, before = self._topic_calls.get(what, (float("-inf"), []))
        self._topic_calls[what] = now, askers
        takes_s = TOKEN_S * askers[0].count
        # What a daemon found in its journal it asks for row by row: whether two are alike it would have to read their bodies for.
        # Whose row a call is for is not said here, so nothing is judged while there may be such rows.
        if now < self.last_start_at + RECOVERED_S or any(each.is_async and each.at < self.last_start_at for each in askers):
            return
        still = [
            asked
            for asked in before
            if asked.end is None and asked.at > self.last_start_at and asked.request()[0] == what[0]
        ]  # fmt: skip
        if now - at < takes_s and still and at > self.troubled_until - 60.0:
            self._broken("G8", f"{askers[0]} is worked for, and {now - at:.2f} s ago that began for {still[0]}")

    def _judge_start(self, asked: Asked, now: float) -> None:
        if asked.end is End.WHOLE:
            return  # asked again: whether that was worked for again is for its caller to judge
        if asked.shape is Shape.EMBED:
            return  # the double asks what it is worth when it is done, and not when it starts
        # A call that waited here for its model was handed over before: that long ago at most.
        waited_s = self._waited_at_most_s(asked.model, now)
        if now - waited_s < self.woke_at + 1.0:
            return  # handed over in time, and read when the engine woke up
        self._started(asked, now - waited_s)
        # A row with a key outlives its asker's end where the daemon ended with it: who comes back may ask for it.
        may_outlive = asked.is_async or (asked.key is not None and asked.at < self.last_end_at)
        allowed_s = SLACK_S + (CLOSED_WITHIN_S if waited_s else 0.0)  # it is closed within 2 s of its caller's leaving
        if not may_outlive and asked.left_at is not None and now > asked.left_at + allowed_s and asked.ended_at > asked.at:
            self._broken("G3", f"{asked} starts {now - asked.left_at:.2f} s after its caller left")
        # What a daemon found in its journal may start as late as a caller who came back at the end of its grace may wait.
        start_by = asked.at + asked.deadline_s
        if asked.at < self.last_end_at:
            start_by = max(start_by, self.last_start_at + ORPHAN_GRACE_S + asked.deadline_s)
        if not asked.is_async and now - waited_s > start_by + SLACK_S:
            self._broken("G6", f"{asked} starts {now - start_by:.2f} s after its deadline")
        if len(asked.starts) > 3:  # two attempts, and one that no byte of was heard
            self._broken("D1", f"{asked} was worked for {len(asked.starts)} times")

    def _waited_at_most_s(self, model: str, now: float) -> float:
        """How long a call may have waited in here for its model that begins in the moment in which it is there."""
        scheduler = self.double.machine.scheduler
        mine = (runner for runner in scheduler.loaded.values() if runner.spec.name.removesuffix(":latest") == model)
        return LOADS_IN_A_ROW * scheduler._options.load_s if any(runner.loaded_at > now - 0.1 for runner in mine) else 0.0

    def _well(self, asked: Asked) -> Script:
        return Script(tokens=asked.words(self.calls))

    def _fault(self, askers: list[Asked]) -> Script | None:
        if not (self.refuses or self.cuts or self.dies or self.stalls):
            return None
        well = self._well(askers[0])
        made: Script | None = None
        what = ""
        if self.refuses:
            self.refuses -= 1
            made, what = Script(fail_status=503, fail_text=BUSY), "503"
        elif self.cuts:
            self.cuts -= 1
            made, what = Script(tokens=well.tokens, cut_at_byte=400), "cut"
        elif self.dies:
            self.dies -= 1
            made, what = Script(tokens=well.tokens, fail_after=1, is_fatal=True), "runner died"
        elif self.stalls:
            self.stalls -= 1
            made, what = Script(tokens=well.tokens, hang_after=1), "stalled"
        if made is not None:
            for asked in askers:
                asked.harmed = what
            self.trouble(180.0 if what == "stalled" else 0.0)
        return made
