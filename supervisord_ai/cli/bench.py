"""`bench`: what the owner's own Ollama and models can do, and how many slots are worth having.

The calls go to Ollama directly and not through the queue, because what is asked is what lies behind it; so while agents ask, the
figures would be wrong and the agents would wait longer, and it is refused unless it is meant. A model is loaded by a call that
is not counted; then so many calls at once, each with a prompt of its own, are streamed to their end, two rounds of them.
"""

from __future__ import annotations

import json
import os
import statistics
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import trio

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import load_config
from supervisord_ai.cli.progress import working
from supervisord_ai.cli.screen import columns, printable, table
from supervisord_ai.cli.trial import find_ollama
from supervisord_ai.config import Config
from supervisord_ai.core.slot_advice import SlotAdvice, Speed, advise
from supervisord_ai.errors import Denied, NotRunning, UpstreamFault, UsageError
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.wire.ndjson import LineSplitter, read_line

ROUNDS = 2
LOAD_WITHIN_S = 600.0
CALL_WITHIN_S = 600.0
MOST_MODELS = 4  # of those that are loaded; who wants more names them


@dataclass(frozen=True, slots=True)
class Measured:
    """One model. `num_ctx`: the context it was asked with."""

    model: str
    num_ctx: int
    speeds: tuple[Speed, ...]
    advice: SlotAdvice


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of each model. `num_ctx_of`: the context the gateway would ask with, so that nothing is loaded twice."""

    at_once: tuple[int, ...]
    tokens: int
    num_ctx_of: Callable[[str], int]


def run(args: Namespace) -> int:
    if not args.anyway:
        refuse_while_agents_ask(args)
    config = load_config_if_any(args)
    known = None if args.ollama else _url_of(config)
    url = known or find_ollama(args.ollama, os.environ).url
    plan = Plan(args.at_once, args.tokens, partial(_num_ctx, config))
    with working(f"measuring at {url}"):
        measured = trio.run(_with_client, url, tuple(args.models), plan)
    if args.json:
        told = {"ollama": url, "tokens": args.tokens, "models": [asdict(one) for one in measured]}
        print(json.dumps(told, indent=2))
    else:
        print(report(url, measured, config))
    return Exit.GOOD


def refuse_while_agents_ask(args: Namespace) -> None:
    """Return when nobody asks, or no daemon runs.

    Raises:
        Denied: somebody does; with what helps.
    """
    with suppress(NotRunning):
        queue = open_door(args).get("/v1/status")["queue"]
        waits = 0 if queue["mode"] == "paused" else queue["queued"]
        if queue["running"] or waits:
            raise Denied(
                f"agents are asking: {queue['running']} run, {waits} wait. They would wait longer, and the figures be wrong."
                " Try again later, hold them with `ai-supervisor queue pause` (and `resume`), or say --anyway"
            )


def load_config_if_any(args: Namespace) -> Config | None:
    """Return the config that is used here; None where there is none yet and none was named."""
    try:
        return load_config(args)
    except UsageError:
        if args.config:
            raise
        return None


def _url_of(config: Config | None) -> str | None:
    """Return the first Ollama of the config that has an address of its own."""
    urls = [] if config is None else [one.url for one in config.backends]
    return next((url for url in urls if url.startswith(("http://", "unix://"))), None)


def _num_ctx(config: Config | None, model: str) -> int:
    if config is None:
        return 4096
    own = dict(config.models.each).get(model)
    return (own.num_ctx if own is not None else None) or config.models.num_ctx


async def _with_client(url: str, models: Sequence[str], plan: Plan) -> list[Measured]:
    client = OllamaClient(url, connections=max(plan.at_once) + 2)
    try:
        return await measure_all(client, models, plan)
    except UpstreamFault as exc:
        raise Denied(f"{url}: {exc}") from exc
    finally:
        await client.aclose()


# --- measuring ------------------------------------------------------------------------------------------------------------


async def measure_all(client: OllamaClient, models: Sequence[str], plan: Plan) -> list[Measured]:
    """Measure these models, or those that are loaded, one after the other.

    Raises:
        UsageError: there is nothing to measure.
        Denied: Ollama did not answer a call as it should.
        UpstreamFault: it does not answer at all, or broke off.
    """
    chosen = list(models) or [str(one["name"]) for one in await client.ps()][:MOST_MODELS]
    if not chosen:
        installed = ", ".join(printable(str(one["name"])) for one in await client.tags()) or "none is installed"
        raise UsageError(f"no model is loaded: name one ({installed})")
    found = []
    for model in chosen:
        shown = await client.show(model)
        if shown is None:
            raise UsageError(f"this Ollama has no model {printable(model)}")
        if "completion" not in (shown.get("capabilities") or ["completion"]):
            if models:
                raise UsageError(f"{printable(model)} only embeds: it has one slot, whatever is configured")
            continue
        speeds = await measure(client, model, plan)
        found.append(Measured(model, plan.num_ctx_of(model), tuple(speeds), advise(speeds)))
    if not found:
        raise UsageError("the loaded models only embed, and those have one slot: name one that writes")
    return found


async def measure(client: OllamaClient, model: str, plan: Plan) -> list[Speed]:
    """Measure one model with each number of calls at once. Raises: as `measure_all`."""
    await _call(client, model, "warm up", 1, plan.num_ctx_of(model), within_s=LOAD_WITHIN_S)
    speeds = []
    for at_once in plan.at_once:
        tokens, spent_s = 0, 0.0
        first_s: list[float] = []
        each_per_s: list[float] = []
        for number in range(ROUNDS):
            told: list[_Told] = []

            async def one(which: int, told: list[_Told] = told, at_once: int = at_once, number: int = number) -> None:
                prompt = f"Count slowly from {which * 1000 + number * 100 + 1}, one number a line ({which} of {at_once} at once)."
                told.append(await _call(client, model, prompt, plan.tokens, plan.num_ctx_of(model), within_s=CALL_WITHIN_S))

            began = trio.current_time()
            await _all([partial(one, which) for which in range(1, at_once + 1)])
            spent_s += trio.current_time() - began
            tokens += sum(call.tokens for call in told)
            first_s += [call.first_s for call in told]
            each_per_s += [call.tokens / call.whole_s for call in told]
        speeds.append(Speed(at_once, tokens / spent_s, statistics.mean(each_per_s), statistics.median(first_s)))
    return speeds


async def _all(deeds: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Do all at once. Raises: what the first of them raised."""
    failed: list[Denied | UpstreamFault] = []

    async def do(deed: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
        try:
            await deed()
        except (Denied, UpstreamFault) as exc:
            failed.append(exc)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for deed in deeds:
            nursery.start_soon(do, deed, nursery.cancel_scope)
    if failed:
        raise failed[0]


@dataclass(frozen=True, slots=True)
class _Told:
    tokens: int
    first_s: float
    whole_s: float


async def _call(client: OllamaClient, model: str, prompt: str, tokens: int, num_ctx: int, *, within_s: float) -> _Told:
    """One answer, streamed to its end."""
    options: dict[str, Any] = {"num_predict": tokens, "num_ctx": num_ctx, "temperature": 0}
    body = json.dumps({"model": model, "prompt": prompt, "options": options}).encode()
    began = trio.current_time()
    first_s: float | None = None
    lines = LineSplitter()
    with trio.move_on_after(within_s):
        async with client.open("POST", "/api/generate", body=body) as reply:
            while (chunk := await reply.next_chunk()) is not None:
                # An error before the first token is an object without a newline.
                for line in lines.feed(chunk) if reply.status == 200 else [chunk]:
                    told = read_line(line)
                    if "error" in told:
                        raise Denied(f"{printable(model)}: {printable(str(told['error']))}")
                    first_s = trio.current_time() - began if first_s is None else first_s
                    if told.get("done"):
                        counted = told.get("eval_count")
                        return _Told(counted if isinstance(counted, int) else 0, first_s, trio.current_time() - began)
        raise Denied(f"{printable(model)}: Ollama ended an answer before its end")
    raise Denied(f"{printable(model)}: no answer within {within_s:.0f} s")


# --- telling ---------------------------------------------------------------------------------------------------------------


def report(url: str, measured: Sequence[Measured], config: Config | None) -> str:
    """Return the table, what follows from it, and the lines for the config."""
    heads = ("MODEL", "AT ONCE", "TOKENS/S", "OF ONE CALL", "FIRST TOKEN")
    rows = [
        (printable(one.model), speed.at_once, f"{speed.together_per_s:.1f}", f"{speed.each_per_s:.1f}", f"{speed.ttft_s:.2f} s")
        for one in measured
        for speed in one.speeds
    ]
    told = [f"Ollama at {url}", "", *table(heads, rows, right=(1, 2, 3, 4), width=columns()), ""]
    told += [f"{printable(one.model)}: {one.advice.slots} {_slots(one)}. {one.advice.why}." for one in measured]
    return "\n".join([*told, "", *_lines_for(url, measured, config)])


def _slots(one: Measured) -> str:
    return "slot" if one.advice.slots == 1 else "slots"


def _lines_for(url: str, measured: Sequence[Measured], config: Config | None) -> list[str]:
    """What to write into the config, or that it says so already."""
    most = max(one.advice.slots for one in measured)
    spec = next((one for one in (() if config is None else config.backends) if one.url == url), None)
    fewer = [one for one in measured if one.advice.slots < most]
    if spec is not None and spec.slots == most and not fewer:
        return [f"Your config says so already: slots = {most}."]
    lines = ["[[ollama]]", f'name = "{spec.name if spec is not None else "main"}"', f"slots = {most}"]
    for one in fewer:
        lines += ["", f"[models.{json.dumps(one.model)}]", f"slots = {one.advice.slots}"]
    below = f"Ollama itself has to allow them: OLLAMA_NUM_PARALLEL={most} in its environment." if most > 1 else ""
    return ["In your config:", "", *(f"    {line}".rstrip() for line in lines), *(["", below] if below else [])]

