"""`python -m supervisord_ai.engine`: one engine on one Unix socket, for whoever started it.

The first line of standard input is the secret that callers must bring; the end of standard input ends the engine, so it cannot
outlive its supervisor. llama.cpp writes to standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from supervisord_ai.clock import SystemClock
from supervisord_ai.engine.api import Api, Served, shape
from supervisord_ai.engine.generation import Generator
from supervisord_ai.engine.gguf import read_weights
from supervisord_ai.engine.ledger import Ledger
from supervisord_ai.engine.llama import LlamaPolicy, LlamaServer
from supervisord_ai.engine.location import MODEL, require_model_file
from supervisord_ai.engine.residency import Residency
from supervisord_ai.engine.slots import Slots
from supervisord_ai.errors import EngineFault
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Bounds, Handler, serve_listener

log = logging.getLogger(__name__)

SECRET_BYTES = 200


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m supervisord_ai.engine", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen; llama.cpp's own socket is made beside it")
    parser.add_argument("--model-file", type=Path, help="a GGUF file; default: the one that `engine install` brought")
    parser.add_argument("--model-name", default=MODEL, help="the name under which it is served (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=2, help="how many answers at once (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="default: all cores but one")
    parser.add_argument("--context", type=int, default=2048, help="tokens a slot holds (default: %(default)s)")
    parser.add_argument("--ledger", type=Path, help="a file to append one line to for each call begun and ended")
    return parser.parse_args(argv)


async def serve(args: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    model_file = require_model_file() if args.model_file is None else args.model_file
    if args.model_file is not None:
        require_model_file()  # llama.cpp itself must be there in any case
    weights = await trio.to_thread.run_sync(read_weights, model_file)
    stdin = trio.lowlevel.FdStream(os.dup(0))
    secret = await _read_secret(stdin)
    clock = SystemClock()
    ledger = Ledger(args.ledger, run=secrets.token_hex(4))
    policy = LlamaPolicy(model_file, args.slots, args.threads, context_tokens=args.context)
    llama = LlamaServer(policy, args.socket.with_name(f"{args.socket.stem}.llama.sock"))

    async def load() -> None:
        await llama.load()
        ledger.note("load", clock.wall())

    residency = Residency(load, llama.unload, clock.monotonic)
    generator = Generator(
        llama,
        Slots(args.slots),
        residency,
        clock.monotonic,
        context_tokens=policy.context_tokens,
        embed_tokens=policy.batch_tokens,
    )
    served = Served(args.model_name, weights, policy.context_tokens)
    api = Api(served, generator, ledger, clock, secret=secret, rng=random.Random())  # noqa: S311 - numbers of answers, as Ollama's

    async def on_connection(_connection: Connection) -> Handler:
        return api.handle

    with listen(args.socket) as listener:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(residency.run)
                nursery.start_soon(lambda: serve_listener(listener, on_connection, Bounds(), kind="unix", shape=shape))
                log.info("serving %s from %s on %s", args.model_name, model_file.name, args.socket)
                await _until_eof(stdin)
                nursery.cancel_scope.cancel()
        finally:
            with suppress(FileNotFoundError):
                args.socket.unlink()
            with trio.CancelScope(shield=True):
                await residency.end()
            ledger.close()


def listen(path: Path) -> socket.socket:
    """A listening socket that only this user may connect to.

    Raises:
        EngineFault: the path cannot be bound.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as exc:
        listener.close()
        raise EngineFault(f"{path}: {exc}") from exc
    finally:
        os.umask(mask)
    listener.listen(128)
    listener.setblocking(False)
    return listener


async def _read_secret(stdin: trio.lowlevel.FdStream) -> str:
    """The first line, read byte by byte: nothing after it is ours."""
    line = b""
    while not line.endswith(b"\n") and len(line) < SECRET_BYTES:
        byte = await stdin.receive_some(1)
        if not byte:
            break
        line += byte
    secret = line.strip().decode("ascii", "replace")
    if not secret:
        raise EngineFault("no secret came on standard input")
    return secret


async def _until_eof(stdin: trio.lowlevel.FdStream) -> None:
    while True:
        try:
            if not await stdin.receive_some(4096):
                return
        except trio.BrokenResourceError:  # a socket whose other end was killed may be reset instead
            return


def main() -> int:
    args = parse(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        trio.run(serve, args)
    except EngineFault as fault:
        print(f"engine: {fault}", file=sys.stderr)  # noqa: T201 - its log is its standard error
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: a thread of llama.cpp that does not end must not keep the process after its lifeline has ended.
    os._exit(code)
