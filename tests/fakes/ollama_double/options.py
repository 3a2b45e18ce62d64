"""What a double is like: sizes and times of the server, and which of the real one's leaks it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .catalogue import ModelSpec
from .gojson import quote


@dataclass(frozen=True, slots=True)
class Leaks:
    """How the real server loses what it lent. All off: a server as its authors meant it."""

    on_slow_disconnect: bool = False
    """A streaming reader that stopped reading, so that the runner waits to hand over a token, and then left, takes its slot
    along until the model is unloaded (ollama#17131)."""

    on_pending_cancel: bool = False
    """A caller that leaves while it waits for a load is dropped from the queue and never told: its handler and its connection
    stay for ever (server/sched.go 236; ollama#17044)."""

    mid_stream_cancel: float = 0.0
    """The last part of every gap between two tokens of a stream, as a fraction, in which a leaver's slot is lost: the runner
    already waits to hand over the next token when it should notice. A leaver at a random moment loses the slot with this
    probability, one that leaves just after a chunk never does, and a `stream: false` caller neither."""


@dataclass(frozen=True, slots=True)
class DoubleOptions:
    """The server's environment variables, and the speed of a machine that is not there."""

    version: str = "0.33.0"
    parallel: int = 2  # OLLAMA_NUM_PARALLEL
    max_queue: int = 512  # OLLAMA_MAX_QUEUE
    max_loaded: int = 3  # OLLAMA_MAX_LOADED_MODELS
    memory_bytes: int | None = None  # a model that would take the loaded ones above 80 % of this evicts
    vram_bytes: int | None = None
    """The graphics memory. A runner that does not fit into what is free of it is loaded into what is, the rest on the processor;
    None: a GPU as large as it has to be."""
    keep_alive_s: float = 300.0  # OLLAMA_KEEP_ALIVE
    num_ctx: int = 4096  # OLLAMA_CONTEXT_LENGTH
    is_cloud_disabled: bool = True  # OLLAMA_NO_CLOUD

    load_s: float = 0.5
    first_token_s: float = 0.0
    token_delay_s: float = 0.02
    default_tokens: int = 5
    embed_s: float = 0.005  # one input
    cancel_notice_s: float = 0.0  # a runner sees late that its caller left; it holds the slot until then
    silent_s: float = 0.0  # after the start: connections are accepted and nothing is answered (GPU discovery)
    leaks: Leaks = Leaks()

    def is_at_least(self, *version: int) -> bool:
        """Whether this release has what came with that one. A build of one's own calls itself 0.0.0 and has everything."""
        mine = tuple(int(part) for part in self.version.split("-")[0].split("."))
        return mine >= version or mine == (0, 0, 0)


class BadOption(Exception):  # noqa: N818
    """An option of the wrong type; Ollama answers 500."""


_INTEGERS = {
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"),
}
_FLOATS = {"top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"}


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options Ollama knows, with their types checked as it checks them; unknown ones and nulls are ignored.

    Raises: BadOption.
    """
    known: dict[str, Any] = {}
    for key, value in options.items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _INTEGERS:
            if not is_number:
                raise BadOption(f"option {quote(key)} must be of type integer")
            known[key] = int(value)
        elif key in _FLOATS:
            if not is_number:
                raise BadOption(f"option {quote(key)} must be of type float32")
            known[key] = float(value)
        elif key == "use_mmap":
            if not isinstance(value, bool):
                raise BadOption(f"option {quote(key)} must be of type boolean")
            known[key] = value
        elif key == "stop":
            if not isinstance(value, list):
                raise BadOption(f"option {quote(key)} must be of type array")
            if not all(isinstance(each, str) for each in value):
                raise BadOption(f"option {quote(key)} must be of an array of strings")
            known[key] = value
    return known


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """The options that are fixed when a runner is loaded: another value means another runner."""

    num_ctx: int
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int = 0
    num_thread: int = 0
    use_mmap: bool | None = None
    draft_num_predict: int = 0
    is_shift: bool = True

    def fits(self, asked: RunnerSettings) -> bool:
        """Whether a runner with these settings may serve a call that asks for those.

        `num_gpu` below 0 asks for nothing: a runner that was sent to the CPU stays there.
        """
        wanted_gpu = self.num_gpu if asked.num_gpu < 0 else asked.num_gpu
        return (
            (self.num_ctx, self.num_batch, self.main_gpu, self.num_thread, self.use_mmap, self.draft_num_predict, self.is_shift)
            == (asked.num_ctx, asked.num_batch, asked.main_gpu, asked.num_thread, asked.use_mmap, asked.draft_num_predict,
                asked.is_shift)
            and self.num_gpu == wanted_gpu
        )  # fmt: skip


def settings_for(spec: ModelSpec, options: Mapping[str, Any], *, shift: bool | None, server: DoubleOptions) -> RunnerSettings:
    """What a call asks of the runner: the server's defaults, then the Modelfile, then the request."""
    merged = {**spec.parameters, **options}
    num_ctx = min(max(int(merged.get("num_ctx", server.num_ctx)), 4), spec.train_ctx)
    return RunnerSettings(
        num_ctx=num_ctx,
        # The batch is never larger than the context and grows with it; only a given one can differ between two calls.
        num_batch=int(merged.get("num_batch", 0)),
        num_gpu=int(merged.get("num_gpu", -1)),
        main_gpu=int(merged.get("main_gpu", 0)),
        num_thread=int(merged.get("num_thread", 0)),
        use_mmap=merged.get("use_mmap"),
        draft_num_predict=int(merged.get("draft_num_predict", 0)),
        # `shift` became a choice of the load with 0.30; before, it was the request's.
        is_shift=shift is not False if server.is_at_least(0, 30) else True,
    )
