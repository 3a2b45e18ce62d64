"""One connection, in two forms that behave alike: a raw non-blocking socket, and a pair in memory for virtual time.

The raw form uses plain socket calls and `trio.lowlevel.wait_readable`, not trio's SocketStream: 17 us a request against 28,
measured with 131 callers. `tests/contract/test_connection.py` holds both forms to one behaviour.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

import trio

from supervisord_ai.errors import HostFault, PeerGone


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as the transport says."""

    kind: str  # "unix" | "tcp" | "memory-unix" | "memory-tcp"
    address: str  # for logs
    facts: object | None = None  # what an in-memory test says of the peer; None for real sockets: ask the kernel


class Connection(Protocol):
    """A stream of bytes each way. One task reads, one task writes, any number may wait for the peer to be gone."""

    peer: Peer
    raw: socket.socket | None  # so that the gateway can ask the kernel who it is; None in memory
    whose: str  # the name of who holds it, as soon as that was found out; "" until then
    write_timeout_s: float

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return what is there, waiting for the first byte; b"" after the peer's end or half-close.

        Raises: PeerGone after a reset, and when this side was closed meanwhile.
        """

    async def send_all(self, data: bytes) -> None:
        """Hand every byte to the transport. Raises: PeerGone, also when no byte was taken for `write_timeout_s`."""

    async def wait_gone(self) -> None:
        """Return when the peer can no longer read an answer, or this side was closed. Reads nothing.

        Unix: hang-up only, a half-close is a caller still waiting. TCP: FIN or RST.
        """

    def send_eof(self) -> None:
        """Say that no more bytes will come; reading goes on."""

    def close(self) -> None:
        """End both directions at once; whoever waits here is woken. Closing twice is well."""

    def abort(self) -> None:
        """Close so that the peer sees an error rather than an end, where the transport can say so (TCP, memory)."""


class SocketConnection:
    """The form for real sockets, Unix and TCP."""

    def __init__(self, raw: socket.socket, *, write_timeout_s: float = 60.0) -> None:
        raw.setblocking(False)
        self.raw: socket.socket | None = raw
        self.whose = ""
        self.write_timeout_s = write_timeout_s
        self._socket = raw
        self._is_closed = False
        self._watches: set[select.epoll] = set()
        if raw.family == socket.AF_UNIX:
            self.peer = Peer("unix", f"unix:fd{raw.fileno()}")
        else:
            # Without it a chunk waits up to 40 ms for the acknowledgement of the one before.
            with contextlib.suppress(OSError):  # it was reset meanwhile: whoever reads first is told
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peer = Peer("tcp", _tcp_address(raw))

    def __repr__(self) -> str:
        return f"<SocketConnection {self.peer.address}{' closed' if self._is_closed else ''}>"

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        # Waiting first saves a recv that nearly always finds nothing, and makes every receive a checkpoint.
        while True:
            if self._is_closed:
                raise PeerGone("closed on this side")
            try:
                await trio.lowlevel.wait_readable(self._socket)
                return self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as exc:
                raise PeerGone(str(exc)) from exc

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise PeerGone(str(exc)) from exc
        if sent < len(data):
            await self._send_slowly(memoryview(data)[sent:])

    async def _send_slowly(self, rest: memoryview) -> None:
        while rest:
            try:
                with trio.fail_after(self.write_timeout_s):
                    await trio.lowlevel.wait_writable(self._socket)
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                continue
            except trio.TooSlowError as exc:
                self.abort()
                raise PeerGone(f"took no byte for {self.write_timeout_s:.0f} s") from exc
            except (OSError, trio.ClosedResourceError) as exc:
                raise PeerGone(str(exc)) from exc

    async def wait_gone(self) -> None:
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        # A private epoll tells hang-up from half-close and from data, which trio's own waiting cannot, and it lets others wait
        # for the end while one reads. Hang-up and error are always reported, whatever is asked for (epoll_ctl(2)).
        try:
            watch = select.epoll(1)
        except OSError as exc:
            raise HostFault(f"epoll: {exc.strerror}") from exc
        with watch:
            watch.register(self._socket.fileno(), 0 if self._socket.family == socket.AF_UNIX else select.EPOLLRDHUP)
            self._watches.add(watch)
            try:
                await trio.lowlevel.wait_readable(watch.fileno())
            except trio.ClosedResourceError:
                return
            finally:
                self._watches.discard(watch)

    def send_eof(self) -> None:
        with contextlib.suppress(OSError):  # the peer went first
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for watch in self._watches:
            trio.lowlevel.notify_closing(watch.fileno())
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    def abort(self) -> None:
        if not self._is_closed and self._socket.family != socket.AF_UNIX:
            # Linger of zero seconds: the kernel drops what is unsent and sends RST (socket(7)).
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def _tcp_address(raw: socket.socket) -> str:
    try:
        host, port = raw.getpeername()[:2]
    except OSError:
        return "tcp:gone"
    return f"{host}:{port}"


class _Pipe:
    """One direction of a connection in memory, with room for so many bytes."""

    def __init__(self, room_bytes: int) -> None:
        self._bytes = bytearray()
        self._room_bytes = room_bytes
        self._is_ended = False  # the writer said so
        self._is_broken = False  # nobody will read, or what was written is void
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._bytes and not self._is_ended and not self._is_broken:
            await self._readers.park()
        if self._is_broken:
            raise PeerGone("connection reset")
        data = bytes(self._bytes[:max_bytes])
        del self._bytes[:max_bytes]
        self._writers.unpark_all()
        return data

    async def send_all(self, data: bytes, timeout_s: float) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while True:
            if self._is_broken or self._is_ended:
                raise PeerGone("broken pipe")
            room = self._room_bytes - len(self._bytes)
            self._bytes += rest[:room]
            rest = rest[room:]
            self._readers.unpark_all()
            if not rest:
                return
            with trio.move_on_after(timeout_s) as scope:
                await self._writers.park()
            if scope.cancelled_caught:
                raise trio.TooSlowError

    def has_input(self) -> bool:
        return bool(self._bytes) or self._is_ended or self._is_broken

    def end(self) -> None:
        """The writer writes no more; what is there can be read."""
        self._is_ended = True
        self._wake()

    def break_now(self) -> None:
        """Both sides fail from now on."""
        self._is_broken = True
        self._wake()

    def _wake(self) -> None:
        self._readers.unpark_all()
        self._writers.unpark_all()


class MemoryConnection:
    """The serving end of a pair in memory."""

    def __init__(self, peer: Peer, from_client: _Pipe, to_client: _Pipe) -> None:
        self.peer = peer
        self.raw: socket.socket | None = None
        self.whose = ""
        self.write_timeout_s = 60.0
        self._from_client = from_client
        self._to_client = to_client
        self._gone = trio.Event()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<MemoryConnection {self.peer.address}{' closed' if self._is_closed else ''}>"

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        return await self._from_client.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        try:
            await self._to_client.send_all(data, self.write_timeout_s)
        except trio.TooSlowError as exc:
            self.abort()
            raise PeerGone(f"took no byte for {self.write_timeout_s:.0f} s") from exc

    async def wait_gone(self) -> None:
        await self._gone.wait()

    def send_eof(self) -> None:
        self._to_client.end()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._to_client.end()
            self._from_client.break_now()
            self._gone.set()

    def abort(self) -> None:
        if not self._is_closed:
            self._to_client.break_now()
            self.close()

    def client_left(self, *, is_half: bool) -> None:
        """The calling end closed, or closed its sending half; who counts as gone is the transport's rule."""
        if not is_half or self.peer.kind == "memory-tcp":
            self._gone.set()


class MemoryClient:
    """The calling end of a pair in memory; also a stream for `ollama.transport`."""

    def __init__(self, serving: MemoryConnection, from_client: _Pipe, to_client: _Pipe) -> None:
        self._serving = serving
        self._from_client = from_client
        self._to_client = to_client

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return what is there; b"" at the end. Raises: PeerGone after the serving side's abort."""
        return await self._to_client.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        """Send, waiting for room. Raises: PeerGone once the serving side is closed."""
        await self._from_client.send_all(data, float("inf"))

    def has_input(self) -> bool:
        """Whether bytes, or the end, are there to be read."""
        return self._to_client.has_input()

    def half_close(self) -> None:
        """Say that no more bytes will come, as `shutdown(SHUT_WR)` does."""
        self._from_client.end()
        self._serving.client_left(is_half=True)

    def close(self) -> None:
        """Leave: the serving side reads the end, and fails when it sends."""
        self._from_client.end()
        self._to_client.break_now()
        self._serving.client_left(is_half=False)

    def abort(self) -> None:
        """Leave as a reset does: the serving side fails at once, also when it reads."""
        self._from_client.break_now()
        self.close()

    async def aclose(self) -> None:
        self.close()


def memory_pair(
    kind: str = "memory-unix", facts: object | None = None, *, room_bytes: int = 65536
) -> tuple[MemoryClient, MemoryConnection]:
    """Return both ends of a connection in memory: the calling one and the serving one.

    `kind` is "memory-unix" or "memory-tcp" and decides whether a half-close counts as leaving; `facts` is what the gateway
    is to believe of the caller; `room_bytes` is what each direction holds before a writer waits.
    """
    from_client, to_client = _Pipe(room_bytes), _Pipe(room_bytes)
    serving = MemoryConnection(Peer(kind, kind, facts), from_client, to_client)
    return MemoryClient(serving, from_client, to_client), serving
