"""Generation as Ollama's own routes do it: the checks in their order, the runner, and the answer in any voice.

`/v1` and `/v1/messages` come through here too, with another voice, as they do in Ollama.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import trio

from supervisord_ai.errors import PeerGone

from .catalogue import CloudName, ModelSpec, NotValid, parse_name, without_source
from .gojson import JsonObject, encode, quote
from .machine import Ask, Machine, nanoseconds
from .options import BadOption, checked, settings_for
from .runner import Context, Final, Piece, Runner, RunnerCall, RunnerFault, Task
from .scheduler import TOO_LONG, CannotRun
from .scripting import Script
from .turn import Turn
from .voices import Voice

CLOUD_DISABLED = "ollama cloud is disabled: remote model is unavailable"
CLOUD_UNREACHABLE = "remote model is unavailable in this double"
Form = Literal["generate", "chat"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A native generation request after its checks."""

    form: Form
    body: JsonObject
    spec: ModelSpec
    options: Mapping[str, Any]

    @property
    def model(self) -> str:
        """As asked: every answer echoes it."""
        name: str = self.body["model"]
        return name

    @property
    def is_stream(self) -> bool:
        return self.body.get("stream", True) is True

    @property
    def is_empty(self) -> bool:
        """Nothing to say anything to: a load or an unload."""
        if self.form == "generate":
            return not self.body.get("prompt")
        return not self.body.get("messages")

    @property
    def rendered(self) -> str:
        """The prompt after the template."""
        if self.form == "generate":
            prompt: str = self.body.get("prompt", "")
            return prompt if self.body.get("raw") else f"user: {prompt}"
        return "\n".join(f"{message.get('role', '').lower()}: {message.get('content', '')}" for message in self.body["messages"])


@dataclass(frozen=True, slots=True)
class Times:
    """When the handler began and when it had a runner, on trio's clock."""

    began: float
    loaded: float


def find_model(machine: Machine, form: Form, name: str) -> ModelSpec:
    """The installed model of a name, or why not.

    Raises: CannotRun with the status and text of the error matrix.
    """
    if form == "chat" and not name:
        raise CannotRun(400, "model is required")
    try:
        spec = machine.catalogue.find(without_source(name)) if name else None
    except CloudName:
        raise cloud_refusal(machine) from None
    except NotValid as problem:
        raise CannotRun(400, str(problem)) from None
    if spec is None:
        raise CannotRun(404, f"model '{name}' not found")
    return spec


def cloud_refusal(machine: Machine) -> CannotRun:
    if machine.options.is_cloud_disabled and machine.options.is_at_least(0, 16, 2):
        return CannotRun(403, CLOUD_DISABLED)
    return CannotRun(502, CLOUD_UNREACHABLE)


async def generation(
    machine: Machine, form: Form, body: JsonObject, *, turn: Turn, voice: Voice, context: Context
) -> None:
    """Answers one generate or chat request, with whatever goes wrong on the way."""
    try:
        asked = _check(machine, form, body)
    except CannotRun as no:
        await voice.refuse(no.status, no.message)
        return
    if asked.is_empty and body.get("keep_alive") == 0:
        machine.scheduler.expire(asked.spec)
        await voice.single(_bare(machine, asked, "unload"))
        return
    if asked.is_empty:  # it wants no slot, and is none of the calls that tests count
        await _run(machine, asked, turn, voice, context)
        return
    machine.enter(asked.spec.name)
    try:
        await _run(machine, asked, turn, voice, context)
    finally:
        machine.leave(asked.spec.name)


def _check(machine: Machine, form: Form, body: JsonObject) -> Asked:
    top = body.get("top_logprobs", 0)
    if not 0 <= top <= 20:
        raise CannotRun(400, "top_logprobs must be between 0 and 20")
    body.setdefault("model", "")
    spec = find_model(machine, form, body["model"])
    full = parse_name(spec.name).full
    asked = Asked(form, body, spec, {})
    if asked.is_empty and body.get("keep_alive") == 0:
        return asked  # an unload asks nothing of the model: one of an embedder goes through /api/generate too
    if body.get("raw") and (body.get("system") or body.get("template") or body.get("context")):
        raise CannotRun(400, "raw mode does not support template, system, or context")
    if spec.is_embedding_only:
        raise CannotRun(400, f"{quote(body['model'])} does not support {form}")
    if body.get("suffix") and "insert" not in spec.capabilities:
        raise CannotRun(400, f"{full} does not support insert")
    if body.get("tools") and "tools" not in spec.capabilities:
        raise CannotRun(400, f"{full} does not support tools")
    if body.get("think") and "thinking" not in spec.capabilities:
        raise CannotRun(400, f"{quote(body['model'])} does not support thinking")
    try:
        options = checked(body.get("options", {}))
    except BadOption as problem:
        raise CannotRun(500, str(problem)) from None
    return Asked(form, body, spec, options)


async def _run(machine: Machine, asked: Asked, turn: Turn, voice: Voice, context: Context) -> None:
    began = trio.current_time()
    settings = settings_for(asked.spec, asked.options, shift=asked.body.get("shift"), server=machine.options)
    try:
        runner = await machine.scheduler.lend(
            asked.spec, settings, keep_alive_s=asked.body.get("keep_alive"), context=context
        )
    except CannotRun as no:
        await voice.refuse(no.status, no.message)
        return
    times = Times(began, trio.current_time())
    if asked.is_empty:
        await voice.single(_bare(machine, asked, "load"))
        return
    if asked.body.get("_debug_render_only"):
        await voice.single({**_head(machine, asked), **_said(asked, ""), "done": False,
                            "_debug_info": {"rendered_template": asked.rendered}})  # fmt: skip
        return
    bad_format = _bad_format(asked.body.get("format"))
    if bad_format is not None:
        await (voice.fail_first if asked.is_stream else voice.refuse)(500, bad_format)
        return
    script = machine.script_for(Ask(turn.head.path, asked.spec.name, asked.rendered))
    if asked.body.get("truncate") is False and _prompt_tokens(asked, script) > settings.num_ctx:
        await (voice.fail_first if asked.is_stream else voice.refuse)(400, TOO_LONG)
        return
    if script.cut_at_byte is not None:
        turn.break_after(script.cut_at_byte, is_reset=script.is_reset)
    call = _begin(machine, asked, script, runner, context)  # a longer prompt is cut, and nobody is told
    tell = _stream if asked.is_stream else _gather
    await tell(machine, asked, call, voice, times)


def _begin(machine: Machine, asked: Asked, script: Script, runner: Runner, context: Context) -> RunnerCall:
    is_thinking = "thinking" in asked.spec.capabilities and asked.body.get("think") is not False
    task = Task(
        script,
        prompt_tokens=min(_prompt_tokens(asked, script), runner.settings.num_ctx),
        is_stream=asked.is_stream,
        is_thinking=is_thinking,
        num_predict=int({**asked.spec.parameters, **asked.options}.get("num_predict", -1)),
        is_chat=asked.form == "chat",
    )
    call = RunnerCall(task, machine.options)
    context.on_end(call.abandon)
    assert machine.nursery is not None, "Double.run() is not running"
    machine.nursery.start_soon(runner.run, call)
    return call


def _prompt_tokens(asked: Asked, script: Script) -> int:
    return len(asked.rendered.split()) if script.prompt_tokens is None else script.prompt_tokens


async def _stream(machine: Machine, asked: Asked, call: RunnerCall, voice: Voice, times: Times) -> None:
    has_spoken = False
    text = ""
    async for said in call.said:
        match said:
            case RunnerFault(status, message):
                await (voice.fail_late(message) if has_spoken else voice.fail_first(status, message))
                return
            case Piece():
                text += said.text
                await voice.line({**_head(machine, asked), **_piece(asked, said), "done": False, **_logprobs(asked, said)})
            case Final():
                head = {**_head(machine, asked), **_said(asked, ""), "done": True, "done_reason": said.reason}
                await voice.line({**head, **_context(asked, text), **_metrics(said, times)})
        has_spoken = True
    if not call.is_finished:
        raise PeerGone
    await voice.finish()


async def _gather(machine: Machine, asked: Asked, call: RunnerCall, voice: Voice, times: Times) -> None:
    text = thinking = ""
    tools: list[dict[str, object]] = []
    logprobs: list[JsonObject] = []
    final: Final | None = None
    async for said in call.said:
        match said:
            case RunnerFault(status, message):
                await voice.refuse(status, message)
                return
            case Piece():
                text += said.text
                thinking += said.thinking
                tools += said.tool_calls
                logprobs += _logprobs(asked, said).get("logprobs", [])
            case Final():
                final = said
    if not call.is_finished:
        raise PeerGone
    answer = {**_head(machine, asked), **_said(asked, text, thinking, tools), "done": final is not None}
    if final is not None:
        answer |= {"done_reason": final.reason, **_context(asked, text), **_metrics(final, times)}
    await voice.single({**answer, **({"logprobs": logprobs} if logprobs else {})})


def _head(machine: Machine, asked: Asked) -> JsonObject:
    return {"model": asked.model, "created_at": machine.created_at()}


def _bare(machine: Machine, asked: Asked, reason: str) -> JsonObject:
    return {**_head(machine, asked), **_said(asked, ""), "done": True, "done_reason": reason}


def _piece(asked: Asked, piece: Piece) -> JsonObject:
    return _said(asked, piece.text, piece.thinking, list(piece.tool_calls))


def _said(asked: Asked, text: str, thinking: str = "", tools: list[dict[str, object]] | None = None) -> JsonObject:
    extra: JsonObject = ({"thinking": thinking} if thinking else {}) | ({"tool_calls": tools} if tools else {})
    if asked.form == "generate":
        return {"response": text, **extra}
    return {"message": {"role": "assistant", "content": text, **extra}}


def _context(asked: Asked, text: str) -> JsonObject:
    """Token numbers of the whole conversation, for generate; this model's vocabulary is code points modulo 1000."""
    if asked.form != "generate" or asked.body.get("raw"):
        return {}
    return {"context": [ord(char) % 1000 for char in asked.rendered + text]}


def _metrics(final: Final, times: Times) -> JsonObject:
    counts = {
        "total_duration": nanoseconds(trio.current_time() - times.began),
        "load_duration": nanoseconds(times.loaded - times.began),
        "prompt_eval_count": final.prompt_tokens,
        "prompt_eval_duration": nanoseconds(final.prompt_s),
        "eval_count": final.tokens,
        "eval_duration": nanoseconds(final.tokens_s),
    }
    return {name: value for name, value in counts.items() if value}


def _logprobs(asked: Asked, piece: Piece) -> JsonObject:
    if not (asked.body.get("logprobs") and piece.has_logprobs):
        return {}
    one = {"token": piece.text, "logprob": -0.25, "bytes": list(piece.text.encode())}
    return {"logprobs": [one]}


def _bad_format(value: object) -> str | None:
    if value is None or isinstance(value, dict) or (isinstance(value, str) and value in {"", "json"}):
        return None
    return f'invalid format: {quote(encode(value).decode())}; expected "json" or a valid JSON Schema object'
