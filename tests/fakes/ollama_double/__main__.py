"""The double as a server of its own; prints where it listens, and serves until TERM or INT."""

from __future__ import annotations

import argparse
import os
import signal
import socket
from pathlib import Path

import trio

from supervisord_ai.clock import SystemClock

from . import DEFAULT_MODELS, Double, DoubleOptions, Leaks, ModelSpec, embedding_model
from .gojson import BadBody, parse_go_duration


def _duration_s(text: str) -> float:
    try:
        return parse_go_duration(text)
    except BadBody as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _model(text: str) -> ModelSpec:
    """NAME[,FAMILY[,SLOT CAPABILITIES...]]: `nomic-embed-text` embeds, `qwen3,qwen3,tools,thinking` completes and more."""
    name, *rest = text.split(",")
    if "embed" in name:
        return embedding_model(name)
    family, *capabilities = rest or ["llama"]
    return ModelSpec(name, family=family, capabilities=("completion", *capabilities))


def _arguments() -> argparse.Namespace:
    usual = DoubleOptions()
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.ollama_double", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT, or a path for a Unix socket")
    parser.add_argument("--model", type=_model, action="append", help="NAME[,FAMILY[,CAPABILITY...]]; may be repeated")
    parser.add_argument("--parallel", type=int, default=usual.parallel)
    parser.add_argument("--max-queue", type=int, default=usual.max_queue)
    parser.add_argument("--max-loaded", type=int, default=usual.max_loaded)
    parser.add_argument("--tokens", type=int, default=usual.default_tokens, help="how many an unscripted answer has")
    parser.add_argument("--token-delay", type=_duration_s, default=usual.token_delay_s)
    parser.add_argument("--first-token", type=_duration_s, default=usual.first_token_s)
    parser.add_argument("--load", type=_duration_s, default=usual.load_s)
    parser.add_argument("--keep-alive", type=_duration_s, default=usual.keep_alive_s)
    parser.add_argument("--silent", type=_duration_s, default=usual.silent_s, help="accept and say nothing for so long")
    parser.add_argument("--version", default=usual.version)
    parser.add_argument("--leak-slow", action="store_true")
    parser.add_argument("--leak-pending", action="store_true")
    parser.add_argument("--leak-cancel", type=float, default=0.0, metavar="FRACTION")
    return parser.parse_args()


def _listener(address: str) -> tuple[socket.socket, str]:
    if "/" in address:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(512)
        return listener, f"unix://{Path(address).resolve()}"
    host, _, port = address.rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=512)
    return listener, "http://{}:{}".format(*listener.getsockname()[:2])


async def _serve(double: Double, listener: socket.socket, url: str) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await nursery.start(double.run)
            nursery.start_soon(double.serve_on, listener)
            print(f"ollama double {os.getpid()} listens on {url}", flush=True)
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


def main() -> None:
    given = _arguments()
    options = DoubleOptions(
        version=given.version,
        parallel=given.parallel,
        max_queue=given.max_queue,
        max_loaded=given.max_loaded,
        keep_alive_s=given.keep_alive,
        load_s=given.load,
        first_token_s=given.first_token,
        token_delay_s=given.token_delay,
        default_tokens=given.tokens,
        silent_s=given.silent,
        leaks=Leaks(given.leak_slow, given.leak_pending, given.leak_cancel),
    )
    listener, url = _listener(given.listen)
    try:
        trio.run(_serve, Double(given.model or DEFAULT_MODELS, options, clock=SystemClock()), listener, url)
    finally:
        if url.startswith("unix://"):
            Path(url.removeprefix("unix://")).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
