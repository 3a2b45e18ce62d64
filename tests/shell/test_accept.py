"""Who asks, on connections in memory: the register follows the fleet, and nothing a caller sends changes who it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisord_ai.core.events import AgentEnded, AgentReady, AgentStarted
from supervisord_ai.core.identity import Caller, IdentityPolicy, PeerFacts, TcpFacts
from supervisord_ai.core.token import token_for
from supervisord_ai.errors import HostFault, Refused
from supervisord_ai.gateway.accept import Accept, split_token
from supervisord_ai.serve.connection import MemoryClient, MemoryConnection, memory_pair
from supervisord_ai.serve.http import Bounds, Exchange, Handler, serve_connection
from supervisord_ai.wire.http1 import Headers, RequestHead
from tests.fakes.peers import FakePeers

FLEET = "/ai-supervisor-abc/agents"
POLICY = IdentityPolicy(owner_uid=1000, owner_gid=1000, daemon_uid=0, fleet_uids=frozenset({2001}), fleet_cgroup=FLEET)
SECRET = b"s" * 32
A = AgentStarted("opus-01", "opus", 1, 100, 1000, f"{FLEET}/opus-01", "tag-a", 2001, own_uid=False)
B = AgentStarted("sonnet-01", "sonnet", 1, 200, 2000, f"{FLEET}/sonnet-01", "tag-b", 2001, own_uid=False)
OF_A = PeerFacts(150, 2001, 2001, 1500, (f"memory:{FLEET}/opus-01",), 150)
OWNER = PeerFacts(900, 1000, 1000, 9000, ("memory:/user.slice",), 900)


def accept(*agents: AgentStarted, policy: IdentityPolicy = POLICY, peers: FakePeers | None = None) -> Accept:
    made = Accept(policy, SECRET, peers=peers or FakePeers(), host_names=("box.example",))
    for agent in agents:
        made.tell(agent)
    return made


def unix(facts: PeerFacts) -> MemoryConnection:
    return memory_pair("memory-unix", facts)[1]


# --- the Unix socket ----------------------------------------------------------------------------------------------------


async def test_an_agent_is_itself_and_the_owner_the_owner() -> None:
    door = accept(A, B)
    assert (await door.identify(unix(OF_A))).name == "opus-01"
    assert (await door.identify(unix(OWNER))).name == "owner"
    seen = door.statistics()
    assert (seen.level, seen.running, seen.proved, seen.refused) == ("proved", 2, 2, 0)


async def test_an_agent_that_connects_before_it_is_announced_is_waited_for(autojump_clock: MockClock) -> None:
    door = accept()
    found: list[Caller] = []

    async def connect() -> None:
        found.append(await door.identify(unix(OF_A)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await trio.sleep(1.0)
        door.tell(B)  # another's start decides nothing
        await wait_all_tasks_blocked()
        assert found == []
        door.tell(A)
    assert [c.name for c in found] == ["opus-01"]
    assert trio.current_time() < 1.1


async def test_who_is_never_announced_is_refused_after_two_seconds(autojump_clock: MockClock) -> None:
    door = accept(B)
    began = trio.current_time()
    with pytest.raises(Refused, match="403 this process belongs to an agent that is not running"):
        await door.identify(unix(OF_A))
    assert trio.current_time() - began == pytest.approx(2.0)
    assert door.statistics().refused == 1


async def test_a_stranger_is_refused_at_once(autojump_clock: MockClock) -> None:
    door = accept(A)
    began = trio.current_time()
    with pytest.raises(Refused, match="403 user 1234 is no agent and not the owner"):
        await door.identify(unix(PeerFacts(1, 1234, 1234, 5)))
    assert trio.current_time() == began


async def test_from_its_end_on_an_agents_processes_are_nobodys(autojump_clock: MockClock) -> None:
    door = accept(A)
    door.tell(AgentReady("opus-01", 1))
    assert (await door.identify(unix(OF_A))).generation == 1
    door.tell(AgentEnded("opus-01", 1, "crash:SEGV"))
    with pytest.raises(Refused):
        await door.identify(unix(OF_A))
    door.tell(replace(A, generation=2, pid=101))
    assert (await door.identify(unix(OF_A))).generation == 2


async def test_a_memory_connection_without_facts_is_a_mistake_of_the_test() -> None:
    with pytest.raises(HostFault, match="without facts"):
        await accept().identify(memory_pair("memory-unix", None)[1])


@pytest.mark.parametrize(
    ("agents", "level", "words"),
    [
        ((), "proved", "no agent runs"),
        ((A, B), "proved", "by cgroup or own user"),
        ((A, replace(B, cgroup=None)), "tagged", "1 of 2 agents have no cgroup and no own user"),
        ((A, replace(B, cgroup=None, own_uid=True)), "proved", "by cgroup"),
        ((A, replace(B, uid=0)), "tagged", "sonnet-01 runs as user 0, who may become any agent"),
    ],
)
def test_the_level_says_what_is_not_proved(agents: tuple[AgentStarted, ...], level: str, words: str) -> None:
    seen = accept(*agents).statistics()
    assert seen.level == level
    assert words in seen.detail


# --- TCP ----------------------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """What a handler behind the door saw."""

    caller: Caller
    target: str
    path: str


class Face:
    """A TCP face in memory: `ask` sends a request and returns the status and who it was taken for."""

    def __init__(self, client: MemoryClient, seen: list[Asked]) -> None:
        self._client = client
        self._seen = seen

    async def ask(self, target: str = "/api/tags", *headers: str, host: str = "127.0.0.1:11435") -> tuple[int, str]:
        self._seen.clear()
        lines = "".join(f"{line}\r\n" for line in (f"Host: {host}", *headers))
        await self._client.send_all(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += await self._client.receive_some()
        head, _, body = got.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        while len(body) < length:
            body += await self._client.receive_some()
        return int(head.split()[1]), f"{self._seen[0].caller.name}/{self._seen[0].caller.proof}" if self._seen else body.decode()

    @property
    def last(self) -> Asked:
        return self._seen[-1]


@asynccontextmanager
async def face(door: Accept, facts: TcpFacts) -> AsyncIterator[Face]:
    seen: list[Asked] = []

    def handler_for(caller: Caller) -> Handler:
        async def handle(exchange: Exchange) -> None:
            seen.append(Asked(caller, exchange.head.target, exchange.head.path))
            await exchange.respond(200, ())

        return handle

    client, serving = memory_pair("memory-tcp", facts)
    async with trio.open_nursery() as nursery:
        handler = await door.tcp_handler(serving, handler_for)
        nursery.start_soon(serve_connection, serving, handler, Bounds())
        yield Face(client, seen)
        nursery.cancel_scope.cancel()


async def test_each_request_on_tcp_is_its_tokens(autojump_clock: MockClock) -> None:
    door = accept(A, B)
    a, b = door.token_for("opus-01", 1), door.token_for("sonnet-01", 1)
    async with face(door, TcpFacts()) as tcp:
        assert await tcp.ask("/api/tags", f"Authorization: Bearer {a}") == (200, "opus-01/token")
        assert await tcp.ask("/v1/messages", f"x-api-key: {b}") == (200, "sonnet-01/token")
        assert await tcp.ask("/api/tags", f"authorization: bearer  {b}") == (200, "sonnet-01/token")
        assert await tcp.ask(f"/@{a}/api/tags?a=1") == (200, "opus-01/token")
        assert (tcp.last.target, tcp.last.path) == ("/api/tags?a=1", "/api/tags")
        assert await tcp.ask(f"/@{a}", f"Authorization: Bearer {b}") == (200, "opus-01/token")
        assert tcp.last.path == "/"
        assert await tcp.ask() == (200, "guest/tagged")


async def test_a_key_made_up_for_an_sdk_changes_nothing(autojump_clock: MockClock) -> None:
    async with face(accept(A), TcpFacts(1000, 5)) as tcp:
        for header in ("Authorization: Bearer ollama", "x-api-key: sk-none", "Authorization: Basic YTpi"):
            assert await tcp.ask("/api/tags", header) == (200, "owner/proved")


@pytest.mark.parametrize(
    "token",
    [
        token_for(SECRET, "opus-01", 2),
        token_for(SECRET, "opus-02", 1),
        token_for(b"another" * 5, "opus-01", 1),
        "ais1.opus-01.1.",
        "ais1.",
    ],
)
async def test_a_token_of_no_running_generation_is_401(token: str, autojump_clock: MockClock) -> None:
    async with face(accept(A), TcpFacts(1000, 5)) as tcp:
        for target, header in ((f"/@{token}/api/tags", "X: y"), ("/api/tags", f"Authorization: Bearer {token}")):
            status, words = await tcp.ask(target, header)
            assert status == 401
            assert "this token is not, or no longer, that of a running agent" in words


async def test_a_token_used_before_its_agent_is_announced_is_waited_for(autojump_clock: MockClock) -> None:
    door = accept()

    async def announce() -> None:
        await trio.sleep(1)
        door.tell(A)

    async with face(door, TcpFacts()) as tcp, trio.open_nursery() as nursery:
        nursery.start_soon(announce)
        assert await tcp.ask("/api/tags", f"Authorization: Bearer {door.token_for('opus-01', 1)}") == (200, "opus-01/token")


async def test_a_token_ends_with_its_generation_also_on_an_open_connection(autojump_clock: MockClock) -> None:
    door = accept(A)
    header = f"Authorization: Bearer {door.token_for('opus-01', 1)}"
    async with face(door, TcpFacts()) as tcp:
        assert await tcp.ask("/api/tags", header) == (200, "opus-01/token")
        door.tell(AgentEnded("opus-01", 1, "finished"))
        assert (await tcp.ask("/api/tags", header))[0] == 401


async def test_the_kernels_word_on_the_socket_outranks_the_token() -> None:
    peers = FakePeers()
    peers.has_cgroup(f"{FLEET}/opus-01", 77)
    door = accept(A, B, peers=peers)
    async with face(door, TcpFacts(2001, 5, cgroup_id=77)) as tcp:
        assert await tcp.ask("/api/tags", f"Authorization: Bearer {door.token_for('sonnet-01', 1)}") == (200, "opus-01/proved")
    alone = accept(replace(A, uid=2002, own_uid=True), B)
    async with face(alone, TcpFacts(2002, 5)) as tcp:
        assert await tcp.ask("/api/tags", f"Authorization: Bearer {alone.token_for('sonnet-01', 1)}") == (200, "opus-01/proved")


async def test_without_a_token_the_process_is_looked_for_only_where_the_user_does_not_decide() -> None:
    peers = FakePeers()
    peers.holds(5, OF_A)
    door = accept(A, B, peers=peers)
    async with face(door, TcpFacts(2001, 5)) as tcp:
        assert await tcp.ask() == (200, "opus-01/proved")
    assert peers.looked_for == [5]
    async with face(door, TcpFacts(2001, 6)) as tcp:
        status, words = await tcp.ask()
        assert status == 401
        assert "must show its agent's token" in words
    peers.looked_for.clear()
    async with face(door, TcpFacts(1000, 5)) as tcp:
        assert await tcp.ask() == (200, "owner/proved")
        assert (await tcp.ask("/api/tags", "Authorization: Bearer ais1.opus-01.1.guessed"))[0] == 401
    assert peers.looked_for == []


async def test_a_token_of_an_agent_in_a_cage_is_good_in_the_hands_of_that_agent_only() -> None:
    peers = FakePeers()
    peers.holds(5, OF_A)
    door = accept(A, B, peers=peers)
    async with face(door, TcpFacts(2001, 5)) as tcp:
        for agent in ("opus-01", "sonnet-01"):
            assert await tcp.ask("/api/tags", f"Authorization: Bearer {door.token_for(agent, 1)}") == (200, "opus-01/proved")
    assert peers.looked_for == [5]  # once for a connection
    async with face(door, TcpFacts(2001, 6)) as tcp:
        assert (await tcp.ask("/api/tags", f"Authorization: Bearer {door.token_for('opus-01', 1)}"))[0] == 401


HERE = ["127.0.0.1:11435", "localhost", "LOCALHOST.:80", "app.localhost:1", "[::1]:5", "127.8.8.8", "box.example"]
ELSEWHERE = [
    "evil.example",
    "evil.example:11435",
    "127.0.0.1.evil.example",
    "10.0.0.1",
    "[fe80::1]",
    "localhost.evil",
    "[::1].evil.example",
]


@pytest.mark.parametrize("host", HERE)
async def test_a_host_of_this_machine_is_served(host: str) -> None:
    async with face(accept(), TcpFacts(1000)) as tcp:
        assert (await tcp.ask(host=host))[0] == 200


@pytest.mark.parametrize("host", ELSEWHERE)
async def test_a_foreign_host_is_a_page_that_found_its_way_here(host: str) -> None:
    door = accept(A)
    async with face(door, TcpFacts(1000)) as tcp:
        status, words = await tcp.ask("/api/tags", f"Authorization: Bearer {door.token_for('opus-01', 1)}", host=host)
        assert status == 403
        assert "is not this machine" in words


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:8080", 200),
        ("http://box.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost@evil.example", 403),
        ("http://localhost:80@evil.example", 403),
    ],
)
async def test_only_pages_of_this_machine_may_ask(origin: str, status: int) -> None:
    async with face(accept(), TcpFacts(1000)) as tcp:
        assert (await tcp.ask("/api/tags", f"Origin: {origin}"))[0] == status


def test_a_token_is_taken_off_the_path_and_nothing_else_is() -> None:
    def head(target: str, *headers: tuple[str, str]) -> RequestHead:
        path, _, query = target.partition("?")
        return RequestHead("GET", target, path, query, Headers(headers), "1.1")

    found, token = split_token(head("/@abc/api/chat?x=/@y"))
    assert (found.target, found.path, found.query, token) == ("/api/chat?x=/@y", "/api/chat", "x=/@y", "abc")
    for same in ("/api/@abc/x", "/", "/api?x=/@y"):
        whole = head(same)
        assert split_token(whole) == (whole, None)
    found, token = split_token(head("/@a//evil"))
    assert (found.path, token) == ("//evil", "a")
    assert split_token(head("/x", ("Authorization", "Bearer ais1.a.1.b"), ("x-api-key", "ais1.c.1.d")))[1] == "ais1.a.1.b"




# --- external agents ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def socket_of(door: Accept, facts: PeerFacts) -> AsyncIterator[Face]:
    """The Unix socket in memory, for one process."""
    seen: list[Asked] = []

    def handler_for(caller: Caller) -> Handler:
        async def handle(exchange: Exchange) -> None:
            seen.append(Asked(caller, exchange.head.target, exchange.head.path))
            await exchange.respond(200, ())

        return handle

    client, serving = memory_pair("memory-unix", facts)
    async with trio.open_nursery() as nursery:
        handler = await door.unix_handler(serving, handler_for)
        nursery.start_soon(serve_connection, serving, handler, Bounds())
        yield Face(client, seen)
        nursery.cancel_scope.cancel()


def with_externals(*agents: AgentStarted) -> Accept:
    door = Accept(POLICY, SECRET, peers=FakePeers(), externals={"editor": "opus", "box": "sonnet"})
    for agent in agents:
        door.tell(agent)
    return door


async def test_an_external_agent_is_known_by_its_token_in_each_request_on_the_socket(autojump_clock: MockClock) -> None:
    door = with_externals(A)
    token = door.token_for("editor", 0)
    async with socket_of(door, OWNER) as sock:
        assert await sock.ask("/api/tags", f"Authorization: Bearer {token}") == (200, "editor/token")
        assert (sock.last.caller.agent_class, sock.last.caller.uid) == ("opus", 1000)
        assert await sock.ask(f"/@{token}/api/tags") == (200, "editor/token")
        assert sock.last.path == "/api/tags"
        assert await sock.ask("/api/tags", f"x-api-key: {door.token_for('box', 0)}") == (200, "box/token")
        assert await sock.ask("/api/tags") == (200, "owner/proved")


async def test_a_stranger_with_an_external_agents_token_may_call_and_without_it_may_not(autojump_clock: MockClock) -> None:
    door = with_externals(A)
    async with socket_of(door, PeerFacts(0, 1234, 1234, pidfd_matches=False)) as sock:
        assert await sock.ask("/api/tags", f"Authorization: Bearer {door.token_for('box', 0)}") == (200, "box/token")
        status, words = await sock.ask("/api/tags")
        assert status == 403
        assert "user 1234 is no agent" in words


async def test_no_process_of_the_fleet_becomes_an_external_agent(autojump_clock: MockClock) -> None:
    door = with_externals(A)
    header = f"Authorization: Bearer {door.token_for('editor', 0)}"
    async with socket_of(door, OF_A) as sock:
        assert await sock.ask("/api/tags", header) == (200, "opus-01/proved")
    stray = PeerFacts(300, 1000, 1000, 3000, (":/",), 300, run_tag="of-nobody-who-runs")
    with pytest.raises(Refused, match="403 this process was started by an agent that is not running"):
        await door.unix_handler(unix(stray), lambda _caller: pytest.fail("it is nobody"))


@pytest.mark.parametrize(
    "token",
    [
        token_for(SECRET, "opus-01", 1),  # an agent of the fleet is known by its process here
        token_for(SECRET, "editor", 1),
        token_for(SECRET, "gone", 0),
        token_for(b"another" * 5, "editor", 0),
    ],
)
async def test_on_the_socket_any_other_token_changes_nothing(token: str, autojump_clock: MockClock) -> None:
    async with socket_of(with_externals(A), OWNER) as sock:
        assert await sock.ask("/api/tags", f"Authorization: Bearer {token}") == (200, "owner/proved")
        await sock.ask(f"/@{token}/api/tags")
        assert sock.last.path == f"/@{token}/api/tags"


async def test_an_external_agents_token_works_on_tcp_and_does_not_end(autojump_clock: MockClock) -> None:
    door = with_externals(A)
    async with face(door, TcpFacts()) as tcp:
        for _ in range(2):
            assert await tcp.ask(f"/@{door.token_for('editor', 0)}/api/tags") == (200, "editor/token")
            door.tell(AgentEnded("opus-01", 1, "finished"))


async def test_a_reload_brings_external_agents_and_takes_them_away(autojump_clock: MockClock) -> None:
    door = with_externals(A)
    editor, nightly = (door.token_for(name, 0) for name in ("editor", "nightly"))
    async with socket_of(door, OWNER) as sock, face(door, TcpFacts()) as tcp:
        assert (await tcp.ask(f"/@{nightly}/api/tags"))[0] == 401
        door.follow({"nightly": "sonnet"})
        assert await tcp.ask(f"/@{nightly}/api/tags") == (200, "nightly/token")
        assert await sock.ask(f"/@{nightly}/api/tags") == (200, "nightly/token")
        assert (await tcp.ask(f"/@{editor}/api/tags"))[0] == 401
        assert (await sock.ask("/api/tags", f"Authorization: Bearer {editor}")) == (200, "owner/proved")


async def test_without_external_agents_a_token_on_the_socket_is_not_looked_at(autojump_clock: MockClock) -> None:
    door = accept(A)
    async with socket_of(door, OWNER) as sock:
        assert await sock.ask("/api/tags", f"Authorization: Bearer {door.token_for('editor', 0)}") == (200, "owner/proved")
