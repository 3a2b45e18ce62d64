"""Step 1 of the path of a request: who asks.

On the Unix socket identity is found once per connection, from the kernel, and nothing a caller sends can change it. On
loopback TCP there is no process to ask: each request brings its token, in a header or as the first part of the path, and what
the kernel knows of the socket outranks it. An external agent, which we did not start, shows its token on either. The decisions
are `core/identity.py`'s; here the facts are fetched.

An agent may connect before the task that started it has said so, since it runs while that task waits for a thread. So a
caller that is of the fleet and not yet anyone is asked about again when the next agent is announced, for two seconds at most.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

import trio

from supervisord_ai.core.events import AgentStarted, Event
from supervisord_ai.core.identity import (
    EXTERNAL_GENERATION,
    Caller,
    CallerKind,
    IdentityPolicy,
    PeerFacts,
    Proof,
    Register,
    Stranger,
    TcpFacts,
)
from supervisord_ai.core.token import looks_like_token, read_token, token_for
from supervisord_ai.errors import HostFault, PeerGone, Refused
from supervisord_ai.host.peers import KernelPeers, Peers
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Exchange, Handler
from supervisord_ai.wire.http1 import RequestHead

log = logging.getLogger(__name__)

_STARTING_S = 2.0
_HOLDERS_AT_ONCE = 2  # a look through every process's descriptors, in a thread
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class AcceptView:
    """How far identities can be relied on, with one line why, and what was decided so far."""

    level: str  # proved | tagged
    detail: str
    running: int
    proved: int
    tagged: int
    by_token: int
    refused: int


class Accept:
    """Keeps the register of running agents and tells who a connection is. `tell` is its only input besides connections."""

    def __init__(
        self,
        policy: IdentityPolicy,
        secret: bytes,
        *,
        peers: Peers | None = None,
        host_names: tuple[str, ...] = (),
        externals: Mapping[str, str] | None = None,
    ) -> None:
        self._register = Register(policy, externals)
        self._secret = secret
        self._peers = peers if peers is not None else KernelPeers()
        self._host_names = frozenset(name.lower() for name in host_names)
        self._announced = trio.Event()
        self._cgroup_paths: dict[int, str] = {}
        self._looking = trio.CapacityLimiter(_HOLDERS_AT_ONCE)
        self._decided = {Proof.PROVED: 0, Proof.TAGGED: 0, Proof.TOKEN: 0}
        self._refused = 0

    def __repr__(self) -> str:
        return f"<Accept running={len(self._register.running)} refused={self._refused}>"

    def follow(self, externals: Mapping[str, str]) -> None:
        """Have these external agents, with their classes, from now on."""
        self._register.follow(externals)

    def tell(self, event: Event) -> None:
        """Note that an agent started or ended. From the end on, its processes, groups and tokens are nobody's."""
        self._register.tell(event)
        if isinstance(event, AgentStarted):
            number = self._peers.cgroup_id(event.cgroup) if event.cgroup is not None else None
            if number is not None and event.cgroup is not None:
                self._cgroup_paths[number] = event.cgroup
            self._announced.set()
            self._announced = trio.Event()

    def token_for(self, agent: str, generation: int) -> str:
        """Return the token of that generation: nothing is stored, and it ends with the generation."""
        return token_for(self._secret, agent, generation)

    # --- the Unix socket ------------------------------------------------------------------------------------------------

    async def identify(self, connection: Connection) -> Caller:
        """Return who connected on the Unix socket. Call it right after the accept; it waits only for an agent being started.

        Raises:
            Refused: it is nobody who may call.
        """
        facts = self._unix_facts(connection)
        return self._answer(await self._settled(lambda: self._register.on_unix(facts)), connection)

    async def unix_handler(self, connection: Connection, handler_for: Callable[[Caller], Handler]) -> Handler:
        """Return the handler of one connection. Use as `on_connection` of the Unix socket's listener.

        A process outside the fleet may be an external agent: it is, in each request that shows that agent's token.

        Raises:
            Refused: it is nobody who may call, whatever it shows.
        """
        facts = self._unix_facts(connection)
        found = await self._settled(lambda: self._register.on_unix(facts))
        if not self._register.has_externals or self._register.is_of_fleet(facts):
            return handler_for(self._answer(found, connection))

        async def handle(exchange: Exchange) -> None:
            head, token = split_token(exchange.head)
            caller = self._claimed(token)
            if caller is None or caller.generation != EXTERNAL_GENERATION:
                await handler_for(self._answer(found, connection))(exchange)
                return
            exchange.head = head
            await handler_for(self._answer(replace(caller, uid=facts.uid), connection))(exchange)

        return handle

    def agent_of(self, facts: PeerFacts) -> str | None:
        """Return the agent that a process belongs to, whatever it is connected to."""
        found = self._register.on_unix(facts)
        return found.name if isinstance(found, Caller) and found.kind is CallerKind.AGENT else None

    def may_control(self, facts: PeerFacts) -> bool:
        """Say whether a process may use the owner's socket: never one of the fleet's, whatever its user is."""
        return self._register.may_control(facts)

    def _unix_facts(self, connection: Connection) -> PeerFacts:
        if connection.raw is None:
            facts = connection.peer.facts
            if not isinstance(facts, PeerFacts):
                raise HostFault(f"a connection in memory without facts: {connection.peer}")
            return facts
        return self._peers.unix(connection.raw)

    # --- loopback TCP ---------------------------------------------------------------------------------------------------

    async def tcp_handler(self, connection: Connection, handler_for: Callable[[Caller], Handler]) -> Handler:
        """Return a handler that finds the caller of each request and passes the request to that caller's handler.

        `/@TOKEN` is taken off the path first, so that nobody behind it sees it. Use as `on_connection` of a TCP listener.
        """
        facts = self._tcp_facts(connection)
        held: list[PeerFacts] = []  # by whom, once somebody had to look: a connection is one process's

        async def handle(exchange: Exchange) -> None:
            head, token = split_token(exchange.head)
            self.check_origin(head)
            exchange.head = head
            caller = await self._tcp_caller(facts, token, connection, held)
            await handler_for(caller)(exchange)

        await trio.lowlevel.checkpoint()
        return handle

    def check_origin(self, head: RequestHead) -> None:
        """Refuse what a web page in the owner's browser might send: a Host or an Origin that is not this machine.

        A page from anywhere may ask 127.0.0.1, and its own name may be made to resolve there.

        Raises:
            Refused: 403.
        """
        host = head.headers.get("Host", "") or ""
        if host and not self._is_local(host):
            raise Refused(403, f"host {host[:100]} is not this machine")
        origin = head.headers.get("Origin")
        if origin is not None and not self._is_local(origin.partition("://")[2]):
            raise Refused(403, f"origin {origin[:100]} may not call")

    def _is_local(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = (parts["v6"] or parts["name"]).lower().removesuffix(".")
        if name in self._host_names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def _tcp_facts(self, connection: Connection) -> TcpFacts:
        if connection.raw is None:
            facts = connection.peer.facts
            return facts if isinstance(facts, TcpFacts) else TcpFacts()
        try:
            return self._peers.tcp(connection.raw)
        except HostFault as exc:  # reset before it was looked at
            raise PeerGone(connection.peer.address) from exc

    async def _tcp_caller(
        self, facts: TcpFacts, token: str | None, connection: Connection, held: list[PeerFacts]
    ) -> Caller:
        named = self._claimed(token)
        cgroup = self._cgroup_paths.get(facts.cgroup_id) if facts.cgroup_id is not None else None
        is_known = token is not None and named is None  # a token that is no token decides by itself
        if not held and not is_known and facts.inode is not None and self._register.wants_holder(facts, named):
            likely = self._register.agent(named.name) if named is not None else None
            found = await trio.to_thread.run_sync(
                self._peers.holder_of, facts.inode, likely.pid if likely is not None else None, limiter=self._looking
            )
            held.extend([found] if found is not None else [])
        holder = held[0] if held else None

        def decide() -> Caller | Stranger:
            claimed = self._claimed(token)
            if token is not None and claimed is None:
                return Stranger("this token is not, or no longer, that of a running agent", may_be_starting=True)
            return self._register.on_tcp(facts, cgroup=cgroup, claimed=claimed, holder=holder)

        return self._answer(await self._settled(decide), connection, otherwise=401)

    def _claimed(self, token: str | None) -> Caller | None:
        named = read_token(self._secret, token) if token is not None else None
        return self._register.claimed(*named) if named is not None else None

    # --- both -----------------------------------------------------------------------------------------------------------

    async def _settled(self, decide: Callable[[], Caller | Stranger]) -> Caller | Stranger:
        """Decide; while the answer may change with the next agent that is announced, wait for that, and decide again."""
        found = decide()
        with trio.move_on_after(_STARTING_S):
            while isinstance(found, Stranger) and found.may_be_starting:
                await self._announced.wait()
                found = decide()
        return found

    def _answer(self, found: Caller | Stranger, connection: Connection, *, otherwise: int = 403) -> Caller:
        if isinstance(found, Caller):
            self._decided[found.proof] += 1
            connection.whose = found.name
            return found
        self._refused += 1
        log.info("%s refused: %s", connection.peer.address, found.why)
        raise Refused(otherwise, found.why)

    def statistics(self) -> AcceptView:
        running = self._register.running
        level, detail = _level(self._register)
        return AcceptView(
            level=level,
            detail=detail,
            running=len(running),
            proved=self._decided[Proof.PROVED],
            tagged=self._decided[Proof.TAGGED],
            by_token=self._decided[Proof.TOKEN],
            refused=self._refused,
        )


def _level(register: Register) -> tuple[str, str]:
    running = register.running
    mighty = register.almighty
    if mighty is not None:
        return "tagged", f"{mighty.agent} runs as user {mighty.uid}, who may become any agent: give its class a user of its own"
    loose = sum(1 for agent in running if agent.cgroup is None and not agent.own_uid)
    if loose:
        return "tagged", f"{loose} of {len(running)} agents have no cgroup and no own user: session, ancestry and tag decide"
    return "proved", "by cgroup or own user" if running else "no agent runs"


def split_token(head: RequestHead) -> tuple[RequestHead, str | None]:
    """Return the head without a token in its path, and the token it shows: in the path, as Bearer, or as x-api-key."""
    if head.path.startswith("/@"):
        token, slash, rest = head.path[2:].partition("/")
        path = slash + rest if slash else "/"
        target = f"{path}?{head.query}" if head.query else path
        return replace(head, path=path, target=target), token
    scheme, _, credentials = (head.headers.get("Authorization", "") or "").partition(" ")
    for text in (credentials.strip() if scheme.lower() == "bearer" else "", head.headers.get("x-api-key", "") or ""):
        if looks_like_token(text):
            return head, text
    return head, None
