"""One loaded model: its slots, its calls, and how a slot gets lost.

Ollama joins the runner's side of a call and the handler's by an unbuffered channel with no way out but reading. A runner that
waits there for a handler which has left waits until the model is unloaded, and its place in the semaphore with it. Nothing of
that waiting needs a task here: the permit is not given back, which is all that anyone can observe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from .catalogue import ModelSpec
from .options import DoubleOptions, RunnerSettings
from .scripting import Script, words


class Context:
    """Go's request context: ends once, when the client is gone or the handler returns, and tells who asked to know."""

    def __init__(self) -> None:
        self._ended = trio.Event()
        self._to_tell: list[Callable[[], None]] = []

    @property
    def is_ended(self) -> bool:
        return self._ended.is_set()

    def on_end(self, tell: Callable[[], None]) -> None:
        if self.is_ended:
            tell()
        else:
            self._to_tell.append(tell)

    def end(self) -> None:
        if self.is_ended:
            return
        self._ended.set()
        for tell in self._to_tell:
            tell()

    async def wait_ended(self) -> None:
        await self._ended.wait()


@dataclass(frozen=True, slots=True)
class Piece:
    """One token from the runner."""

    text: str = ""
    has_logprobs: bool = False
    thinking: str = ""
    tool_calls: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Final:
    """The runner's last word, with its counts and times."""

    reason: str
    prompt_tokens: int
    prompt_s: float
    tokens: int
    tokens_s: float


@dataclass(frozen=True, slots=True)
class RunnerFault:
    """The runner did not do it."""

    status: int
    message: str


Said = Piece | Final | RunnerFault

RUNNER_DIED = "an error was encountered while running the model: unexpected EOF"


@dataclass(frozen=True, slots=True)
class Task:
    """What a handler asks of a runner."""

    script: Script
    prompt_tokens: int
    is_stream: bool
    is_thinking: bool = False
    num_predict: int = -1
    is_chat: bool = False  # the chat path ends as scripted; the completion path stops on a repeated token


class Peak:
    """How many at once, over all runners."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def change(self, by: int) -> None:
        self.now += by
        self.peak = max(self.peak, self.now)


class Runner:
    """One `llama-server` process. `refs` counts calls by context, `slots` those that run: the two leak differently."""

    def __init__(self, spec: ModelSpec, settings: RunnerSettings, server: DoubleOptions, total: Peak) -> None:
        self.spec = spec
        self.settings = settings
        self.server = server
        self.slot_count = 1 if spec.is_one_slot else server.parallel
        self._slots = trio.Semaphore(self.slot_count)  # first come, first served
        self.refs = 0
        self.session_s = server.keep_alive_s
        self.expires_at: float | None = None  # wall; None until it was idle once
        self.timer: trio.CancelScope | None = None
        self.is_dead = False
        self.loaded_at = trio.current_time()
        self.running = 0
        self.lost = 0
        self._total = total
        self.vram_bytes = 0 if settings.num_gpu == 0 else spec.size_bytes  # a full GPU leaves less: the scheduler says so

    def __repr__(self) -> str:
        return f"<Runner {self.spec.name} {self.running}/{self.slot_count} lost {self.lost} refs {self.refs}>"

    def suits(self, settings: RunnerSettings) -> bool:
        return not self.is_dead and self.settings.fits(settings)

    async def run(self, call: RunnerCall) -> None:
        """The runner's side of one call; ends when it is told, is abandoned, or fails."""
        with call.scope, call.out:
            await self._slots.acquire()
            self._count(+1)
            try:
                await call.speak(self)
                call.is_finished = True
            finally:
                self._count(-1)
                if call.is_lost:
                    self.lost += 1
                else:
                    self._slots.release()

    async def embed(self, context: Context, seconds: float) -> bool:
        """Holds a slot for one input; False if the caller left meanwhile."""
        with trio.CancelScope() as scope:
            context.on_end(scope.cancel)
            async with self._slots:
                self._count(+1)
                try:
                    await trio.sleep(seconds)
                finally:
                    self._count(-1)
        return not context.is_ended

    def _count(self, by: int) -> None:
        self.running += by
        self._total.change(by)


class RunnerCall:
    """A completion under way: made by a handler, spoken by a runner, ended by whichever leaves first."""

    def __init__(self, task: Task, server: DoubleOptions) -> None:
        self.task = task
        self.scope = trio.CancelScope()
        self.out: trio.MemorySendChannel[Said]
        self.said: trio.MemoryReceiveChannel[Said]
        self.out, self.said = trio.open_memory_channel[Said](0)
        self._server = server
        self.is_lost = False
        self.is_finished = False  # the runner said all it had to say; false when it was stopped
        self._is_handing_over = False
        self._gap_began = math.inf
        self._gap_s = 0.0
        self._spoken = 0

    def abandon(self) -> None:
        """The caller left: the runner stops, unless it waits where nobody will ever read again."""
        if self.task.is_stream and self._is_at_the_channel():
            self.is_lost = True
            self.scope.cancel()
        elif self._server.cancel_notice_s:
            self.scope.deadline = trio.current_time() + self._server.cancel_notice_s
        else:
            self.scope.cancel()

    def _is_at_the_channel(self) -> bool:
        leaks = self._server.leaks
        if leaks.on_slow_disconnect and self._is_handing_over:
            return True
        if not (leaks.mid_stream_cancel and self._spoken and math.isfinite(self._gap_s)):
            return False
        elapsed_s = trio.current_time() - self._gap_began
        return 0 < elapsed_s < math.inf and elapsed_s >= (1 - leaks.mid_stream_cancel) * self._gap_s

    async def speak(self, runner: Runner) -> None:
        task, script, server = self.task, self.task.script, self._server
        began = trio.current_time()
        await trio.sleep(server.first_token_s if script.first_s is None else script.first_s)
        prompt_s = trio.current_time() - began
        if script.fail_status is not None:
            await self._say(RunnerFault(script.fail_status, script.fail_text or _RUNNER_JSON))
            return

        pieces = _pieces(task, server)
        delay_s = server.token_delay_s if script.delay_s is None else script.delay_s
        last, same = "", 0
        for number, piece in enumerate(pieces):
            if script.fail_after == number:
                runner.is_dead = script.is_fatal
                await self._say(RunnerFault(500, script.fail_text or _fault_text(task)))
                return
            if script.hang_after == number:
                self._gap_s = math.inf
                await trio.sleep_forever()
            if number:
                await self._pause(delay_s)
            if task.num_predict >= 0 and number >= task.num_predict:
                await self._end("length", number, prompt_s, began)
                return
            same = same + 1 if piece.text and piece.text == last else 0
            last = piece.text
            await self._say(piece)
            if same >= 30 and not task.is_chat:
                return  # "token repeat limit reached": no final line, no error
        if script.fail_after is not None and script.fail_after >= len(pieces):
            await self._say(RunnerFault(500, script.fail_text or _fault_text(task)))
        elif not script.no_final:
            await self._end("stop", len(pieces), prompt_s, began)

    async def _end(self, reason: str, tokens: int, prompt_s: float, began: float) -> None:
        tokens_s = trio.current_time() - began - prompt_s
        await self._say(Final(reason, self.task.prompt_tokens, prompt_s, tokens, tokens_s))

    async def _pause(self, seconds: float) -> None:
        self._gap_began, self._gap_s = trio.current_time(), seconds
        await trio.sleep(seconds)
        self._gap_began = math.inf

    async def _say(self, said: Said) -> None:
        # Whoever took an error leaves at once, in the same turn of the loop: the runner has handed it over all the same.
        self._is_handing_over = not isinstance(said, RunnerFault)
        try:
            await self.out.send(said)
        except trio.BrokenResourceError:
            self.scope.cancel()  # the handler is gone: the runner's write failed, and it stops
            await trio.lowlevel.checkpoint()
        finally:
            self._is_handing_over = False
        self._spoken += 1


def _fault_text(task: Task) -> str:
    """A runner that lives can say what went wrong only on the chat path; of the other one Ollama sees the end."""
    if task.is_chat and not task.script.is_fatal:
        return "llama-server chat error: map[message:fake mid error]"
    return RUNNER_DIED


_RUNNER_JSON = '{"error": {"message": "fake upstream error", "type": "x"}}'


def _pieces(task: Task, server: DoubleOptions) -> Sequence[Piece]:
    script = task.script
    thinking = [Piece(thinking=text) for text in script.thinking] if task.is_thinking else []
    tokens = script.tokens if script.tokens is not None else words(server.default_tokens)
    calls = [
        Piece(tool_calls=({"id": f"call_{number:08x}", "function": {"index": number, **call}},))
        for number, call in enumerate(script.tool_calls)
    ]
    return [*thinking, *(Piece(text=text, has_logprobs=script.has_logprobs) for text in tokens), *calls]
