"""A connection, or a datagram, as coroutine handlers see it.  Belongs to the loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from attrs import define

from tricorn.connection import Credentials
from tricorn.contracts import Job
from tricorn.datagram import REPLY_WAIT_S, Datagram
from tricorn.deadline import Deadline
from tricorn.errors import FramingError, StateError
from tricorn.stream_link import StreamLink

if TYPE_CHECKING:
    from tricorn.proxy_header import ProxyHeader

__all__ = ["AsyncConnection", "AsyncDatagram", "serve_item"]

#: Longest line, and bytes up to a delimiter, unless the call says otherwise.
MAX_LENGTH = 65_536


@define(eq=False)
class AsyncConnection:
    """One peer's conversation, for a coroutine handler: ``async def handler(connection)``.

    ::

        async def shout(connection):
            async for line in connection:
                await connection.send(line.upper())

    One coroutine receives at a time, any may send.  Every ``await`` may be cancelled, and no byte that has arrived is
    lost by it.  Bound waiting with `asyncio.timeout`: without it a call waits for its peer without limit, and costs no
    thread.  The server closes the connection after the handler returned, when everything is sent.  What the transport
    knows besides is in ``connection.transport.get_extra_info``.
    """

    _link: StreamLink

    # -- what it is

    @property
    def transport(self) -> asyncio.Transport:
        """The loop's: for what is not here.  What is written to it directly is not noted, see `draining`."""
        transport: asyncio.Transport = self._link.transport
        return transport

    @property
    def id(self) -> int:
        """The job's number, unique in this process."""
        return self._link.job.id

    @property
    def peer(self) -> Any:
        """The peer's address, as accept(2) gave it."""
        return self._link.connection.peer

    @property
    def local(self) -> Any:
        """Our own address, as this peer reached it."""
        return self._link.connection.local

    @property
    def identity(self) -> Any:
        """Who the peer is, as the server's authenticator found; ``None`` without one."""
        return self._link.connection.identity

    @property
    def deadline(self) -> Deadline | None:
        """By when the whole conversation must be over; ``None`` where no such limit is set."""
        deadline: Deadline | None = self._link.connection.deadline
        return deadline

    @property
    def draining(self) -> bool:
        """True once the server is stopping: finish what you are at, and begin nothing new.

        A handler that waits for its peer's next request is ended by itself: `recv` returns ``b""``.
        """
        return self._link.sock.draining

    @property
    def server_name(self) -> str | None:
        """The name that the peer asked for (SNI); ``None`` without TLS."""
        name: str | None = self._link.connection.server_name
        return name

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on (ALPN); ``None`` if none was."""
        protocol: str | None = self._link.connection.alpn
        return protocol

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's certificate, verified; ``None`` if there is none."""
        certificate: dict[str, Any] | None = self._link.connection.certificate
        return certificate

    @property
    def credentials(self) -> Credentials | None:
        """Process, user and group of the peer of a Unix socket when it connected; ``None`` elsewhere."""
        credentials: Credentials | None = self._link.connection.credentials
        return credentials

    @property
    def proxy(self) -> Any:
        """The address of the proxy that the connection came through; ``None`` without one."""
        return self._link.connection.proxy

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """What that proxy said: `tricorn.proxy_header`; ``None`` without one."""
        header: ProxyHeader | None = self._link.connection.proxy_header
        return header

    # -- receiving

    async def recv(self, n: int = 65536) -> bytes:
        """Wait for bytes and return at most ``n`` of them; ``b""`` is the end of the stream.

        Raises what the network did to the connection, such as `ConnectionResetError`.
        """
        if n < 1:
            raise ValueError(f"recv({n}): at least one byte")
        link = self._link
        while not link.buffer:
            if link.ended:
                self._raise_if_lost()
                return b""
            await link.more()
        return link.take(n)

    async def readline(self, max_length: int = MAX_LENGTH) -> bytes:
        r"""The next line with its ``\n``; at the end of the stream what is left, which may be ``b""``.

        Raises `~tricorn.errors.FramingError` for a line of more than ``max_length`` bytes.
        """
        return await self._read_to(b"\n", max_length, unterminated=True)

    async def readuntil(self, delimiter: bytes, max_length: int = MAX_LENGTH) -> bytes:
        """Everything up to and with ``delimiter``; ``b""`` at the end of the stream.

        Raises `~tricorn.errors.FramingError` if it does not come within ``max_length`` bytes, or not before the end.
        """
        if not delimiter:
            raise ValueError("readuntil(b''): a delimiter has at least one byte")
        return await self._read_to(delimiter, max_length, unterminated=False)

    async def readexactly(self, n: int) -> bytes:
        """``n`` bytes; ``b""`` at the end of the stream, `~tricorn.errors.FramingError` if that is in the middle.

        Memory grows with what arrives and not with ``n``; a bound on ``n`` is the caller's business.
        """
        link = self._link
        while len(link.buffer) < n:
            if link.ended:
                self._raise_if_lost()
                if not link.buffer:
                    return b""
                raise self._broken(f"the stream ended after {len(link.buffer)} of {n} bytes")
            await link.more()
        return link.take(n)

    async def _read_to(self, delimiter: bytes, max_length: int, *, unterminated: bool) -> bytes:
        link, searched = self._link, 0
        while True:
            end = link.buffer.find(delimiter, searched) + len(delimiter)
            found = end >= len(delimiter)
            if (end if found else len(link.buffer)) > max_length:
                raise self._broken(f"no {delimiter!r} within {max_length} bytes")
            if found:
                return link.take(end)
            if link.ended:
                self._raise_if_lost()
                if unterminated or not link.buffer:
                    return link.take(len(link.buffer))
                raise self._broken(f"the stream ended before {delimiter!r}")
            searched = max(0, len(link.buffer) - len(delimiter) + 1)
            await link.more()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Line after line, as `readline`."""
        return self

    async def __anext__(self) -> bytes:
        line = await self._read_to(b"\n", MAX_LENGTH, unterminated=True)
        if not line:
            raise StopAsyncIteration
        return line

    async def chunks(self, n: int = 65536) -> AsyncIterator[bytes]:
        """Whatever arrives, in pieces of at most ``n`` bytes, as `recv`."""
        while data := await self.recv(n):
            yield data

    def _raise_if_lost(self) -> None:
        fault = self._link.sock.fault
        if isinstance(fault, OSError):
            raise fault

    def _broken(self, how: str) -> FramingError:
        """Noted as the peer's doing."""
        error = FramingError(how)
        self._link.sock.fault = error
        return error

    # -- sending

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``.  Waits only while more is unsent than the dispatcher's ``high_water``.

        Raises what the network did to the connection, `~tricorn.errors.StateError` after `close`.
        """
        link = self._link
        link.send(data if type(data) is bytes else bytes(data))
        if link.full:
            await link.drained()

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes; receiving goes on.

        Raises `~tricorn.errors.StateError` over TLS, which an asyncio loop can only end in both directions.
        """
        transport = self.transport
        if not transport.can_write_eof():
            raise StateError("send_eof(): over TLS an asyncio loop ends both directions; return from the handler")
        transport.write_eof()

    async def close(self) -> None:
        """Close when everything is sent; returns when it is.  Not needed: the server does it after the handler."""
        await self._link.closed()


@define(eq=False)
class AsyncDatagram:
    """One packet, for a coroutine handler."""

    #: The `~tricorn.datagram.Datagram` itself: for what the kernel said beside the packet.
    datagram: Datagram
    #: The job's number, unique in this process.
    id: int

    @property
    def data(self) -> bytes:
        """The packet's bytes; may be empty."""
        return self.datagram.data

    @property
    def peer(self) -> Any:
        """The sender's address, or ``None`` for a Unix client that has no name."""
        return self.datagram.peer

    @property
    def local(self) -> Any:
        """The local address that the packet was sent to."""
        return self.datagram.local

    @property
    def truncated(self) -> bool:
        """True if the packet was longer than the transport's limit."""
        return self.datagram.truncated

    async def reply(self, data: bytes | bytearray | memoryview) -> int:
        """`~tricorn.datagram.Datagram.reply`, which waits for room without holding anybody up."""
        deadline, pause = Deadline.after(REPLY_WAIT_S), 0.001
        while True:
            try:
                return self.datagram.reply_now(data)
            except BlockingIOError:
                if deadline.expired:
                    break
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        self.datagram.fault = TimeoutError(f"no room for the reply to {self.peer!r} within {REPLY_WAIT_S} s")
        raise self.datagram.fault


async def serve_item(job: Job) -> None:
    """Serve an item to its end.  It is opened and finished on a thread: its source, a database perhaps, is asked then,
    and may keep us waiting."""
    error: BaseException | None = None
    try:
        await asyncio.to_thread(job.request.open, Deadline(None))
        await job.handle(job.request)
    except BaseException as trouble:
        error = trouble
    await asyncio.to_thread(job.end, error)
