"""How a notice reaches its receiver, on real processes and a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from supervisord_ai.core.alerts import Notify
from supervisord_ai.health import notify
from supervisord_ai.health.notify import RealCourier, whom
from supervisord_ai.ollama import webhook

NOTICE = json.dumps({"alert": "slow", "text": "; rm -rf $HOME"}).encode()


@dataclass
class Receiver:
    """A web server that writes down what it is sent."""

    url: str = ""
    answer: bytes = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data or not data.endswith(b"}"):
                more = await stream.receive_some()
                if not more:
                    break
                data += more
            self.requests.append(data)
            await stream.send_all(self.answer)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        found.url = f"http://127.0.0.1:{port}/hook/SECRET"
        nursery.start_soon(trio.serve_listeners, found.serve, listeners)
        yield found
        nursery.cancel_scope.cancel()


async def test_a_command_gets_the_notice_on_its_input_and_nothing_of_it_is_code(tmp_path: Path) -> None:
    file = tmp_path / "got"
    assert await RealCourier().carry(Notify(command=("tee", str(file))), NOTICE) == ""
    assert file.read_bytes() == NOTICE


async def test_a_command_that_does_not_read_is_no_trouble() -> None:
    assert await RealCourier().carry(Notify(command=("true",)), b"x" * 1_000_000) == ""


async def test_a_command_that_fails_says_so() -> None:
    trouble = await RealCourier().carry(Notify(command=("sh", "-c", "cat >/dev/null; echo no bell >&2; exit 3")), NOTICE)
    assert trouble == "sh ended with 3: no bell"
    assert "cannot be run" in await RealCourier().carry(Notify(command=("/no/such/bell",)), NOTICE)


async def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "COMMAND_WITHIN_S", 0.3)
    assert "did not end within" in await RealCourier().carry(Notify(command=("sleep", "1000")), NOTICE)


async def test_a_url_gets_the_notice_as_json() -> None:
    async with receiver() as there:
        assert await RealCourier().carry(Notify(url=there.url), NOTICE) == ""
        (request,) = there.requests
        assert request.startswith(b"POST /hook/SECRET HTTP/1.1\r\n")
        assert b"content-type: application/json" in request.lower()
        assert request.endswith(NOTICE)


@pytest.mark.parametrize("status", ["500 Oops", "302 Found\r\nLocation: http://127.0.0.1:1/"])
async def test_a_url_that_does_not_take_it_is_told_without_its_secret(status: str) -> None:
    async with receiver() as there:
        there.answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        trouble = await RealCourier().carry(Notify(url=there.url), NOTICE)
        assert f"it answered {status[:3]}" in trouble
        assert "SECRET" not in trouble
        assert len(there.requests) == 1


async def test_a_url_where_nobody_is_or_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be reached" in await RealCourier().carry(Notify(url="http://127.0.0.1:1/SECRET"), NOTICE)
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.3)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    assert "did not answer within" in await RealCourier().carry(Notify(url=f"http://127.0.0.1:{port}/"), NOTICE)
    await listeners[0].aclose()


async def test_both_ways_are_gone_and_each_trouble_is_told() -> None:
    trouble = await RealCourier().carry(Notify(command=("false",), url="http://127.0.0.1:1/"), NOTICE)
    assert "false ended with 1" in trouble
    assert "http://127.0.0.1:1: it cannot be reached" in trouble


def test_whom_names_a_way_without_its_secrets() -> None:
    assert whom(Notify(command=("/usr/bin/page", "--key=SECRET"))) == "/usr/bin/page"
    assert whom(Notify(url="https://user:pw@hooks.example:8443/SECRET?k=SECRET")) == "https://hooks.example:8443"
    assert whom(Notify()) == ""
