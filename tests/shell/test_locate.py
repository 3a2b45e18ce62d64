"""`url = "auto"` and `"windows"` in virtual time: found by asking, kept until it fails, looked for again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.core.locate import Facts, Way
from supervisord_ai.errors import UpstreamUnreachable
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.ollama.locate import Locator
from supervisord_ai.ollama.streams import ByteStream, Dialer

HERE = ("127.0.0.1", 11434)
WINDOWS = ("172.27.224.1", 11434)
NAT_ROUTE = "Iface\tDestination\n" + "eth0\t00000000\t{gateway}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"


class Line:
    """One connection to something that answers every request with one text."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._asked = trio.Event()

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._asked.set()

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        await self._asked.wait()
        if self._answer is None:
            await trio.sleep_forever()
        assert self._answer is not None
        self._asked = trio.Event()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(self._answer)
        return head + self._answer

    def has_input(self) -> bool:
        return False

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class Machine:
    """Who answers where, and what the kernel says. An answer of None takes connections and is silent."""

    answers: dict[tuple[str, int], bytes | None] = field(default_factory=dict)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    gateway: str = "01E01BAC"
    is_wsl: bool = True

    def facts(self) -> Facts:
        return Facts("6.6-microsoft-standard-WSL2" if self.is_wsl else "6.12-amd64", NAT_ROUTE.format(gateway=self.gateway))

    def dial_to(self, host: str, port: int) -> Dialer:
        async def dial() -> ByteStream:
            await trio.lowlevel.checkpoint()
            self.dialled.append((host, port))
            if (host, port) not in self.answers:
                raise UpstreamUnreachable(f"{host}:{port}: connection refused")
            return Line(self.answers[host, port])

        return dial


def client_of(machine: Machine, word: str = "auto") -> tuple[OllamaClient, Locator]:
    locator = Locator("auto" if word == "auto" else "windows", machine.facts, dial_to=machine.dial_to)
    return OllamaClient(word, dial=locator.dial, where=locator.where), locator


VERSION = b'{"version": "0.12.6"}'


async def test_this_systems_ollama_comes_first(autojump_clock: MockClock) -> None:
    machine = Machine({HERE: VERSION, WINDOWS: VERSION})
    client, _ = client_of(machine)
    assert client.where() == ""
    assert await client.version() == "0.12.6"
    assert client.where() == "http://127.0.0.1:11434 (this system)"
    assert WINDOWS not in machine.dialled
    await client.aclose()


async def test_without_one_here_it_is_the_one_on_windows(autojump_clock: MockClock) -> None:
    machine = Machine({WINDOWS: VERSION})
    client, locator = client_of(machine)
    await client.version()
    assert locator.found is not None
    assert locator.found.way is Way.GATEWAY
    assert client.where() == "http://172.27.224.1:11434 (Windows, default gateway)"


async def test_windows_means_windows_even_if_one_answers_here(autojump_clock: MockClock) -> None:
    machine = Machine({HERE: VERSION})
    client, _ = client_of(machine, "windows")
    with pytest.raises(UpstreamUnreachable, match=r"no Ollama found. http://172.27.224.1:11434 .*setx OLLAMA_HOST"):
        await client.version()
    assert HERE not in machine.dialled


@pytest.mark.parametrize("answer", [b"{}", b'{"error": "not found"}', b'"hello"', b"<html>", None])
async def test_what_takes_connections_but_is_no_ollama_is_passed_over(autojump_clock: MockClock, answer: bytes | None) -> None:
    machine = Machine({HERE: answer, WINDOWS: VERSION})
    client, _ = client_of(machine)
    assert await client.version() == "0.12.6"
    assert trio.current_time() <= 3.0


async def test_none_anywhere_is_one_line_and_the_next_call_looks_again(autojump_clock: MockClock) -> None:
    machine = Machine()
    client, _ = client_of(machine)
    with pytest.raises(UpstreamUnreachable, match="no Ollama found"):
        await client.version()
    machine.answers[HERE] = VERSION
    assert await client.version() == "0.12.6"


async def test_when_the_one_that_was_found_goes_the_call_fails_before_another_is_taken(autojump_clock: MockClock) -> None:
    """The other has other models: the gateway must notice."""
    machine = Machine({HERE: VERSION, WINDOWS: VERSION})
    client, locator = client_of(machine)
    await locator.dial()
    del machine.answers[HERE]
    with pytest.raises(UpstreamUnreachable):
        await locator.dial()
    assert client.where() == ""
    await locator.dial()
    assert locator.found is not None
    assert (locator.found.host, locator.found.port) == WINDOWS


async def test_a_gateway_that_changed_is_seen_at_the_next_connect(autojump_clock: MockClock) -> None:
    machine = Machine({WINDOWS: VERSION, ("172.16.0.2", 11434): VERSION})
    _, locator = client_of(machine, "windows")
    await locator.dial()
    machine.gateway = "020010AC"
    with pytest.raises(UpstreamUnreachable, match="not the way any more"):
        await locator.dial()
    await locator.dial()
    assert machine.dialled[-1] == ("172.16.0.2", 11434)


async def test_a_hundred_callers_look_once(autojump_clock: MockClock) -> None:
    machine = Machine({WINDOWS: VERSION})
    _, locator = client_of(machine)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(locator.dial)
    assert machine.dialled.count(HERE) == 1
    assert machine.dialled.count(WINDOWS) == 101


async def test_a_look_that_is_cancelled_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    machine = Machine({HERE: None})
    _, locator = client_of(machine)
    with trio.move_on_after(0.5):
        await locator.dial()
    machine.answers[HERE] = VERSION
    await locator.dial()
    assert locator.found is not None


