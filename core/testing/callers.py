"""The kit's clients: one for each kind of request, all with the same calls."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field

from tricorn.contracts import Kind, Transport
from tricorn.testing import bounds
from tricorn.testing.bounds import expect
from tricorn.testing.items import Hub, Items

__all__ = ["Caller", "Exchange"]


class Caller(Protocol):
    """Somebody who makes a request."""

    #: What the server should see as the peer; ``None`` where there is no such thing.
    name: object

    def say(self, text: str, end: str = "\n") -> None:
        """Send an order."""
        ...

    def hear(self) -> str:
        """The next answer; ``""`` if the server hung up, `AssertionError` if nothing comes."""
        ...

    def close(self) -> None:
        """Go away."""
        ...


@define(eq=False)
class _StreamCaller:
    sock: Any
    name: object
    _buffer: bytes = b""

    def say(self, text: str, end: str = "\n") -> None:
        self.sock.sendall((text + end).encode("ascii"))

    def hear(self) -> str:
        while b"\n" not in self._buffer:
            data = self._receive()
            if not data:
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("ascii")

    def _receive(self) -> bytes:
        try:
            data: bytes = self.sock.recv(65536)
        except TimeoutError:
            raise AssertionError(f"no answer within {bounds.BOUND_S:g} s") from None
        except ConnectionError:
            return b""
        return data

    def close(self) -> None:
        self.sock.close()


@define(eq=False)
class _PacketCaller:
    sock: socket.socket
    name: object

    def say(self, text: str, end: str = "\n") -> None:
        self.sock.send((text + end).encode("ascii"))

    def hear(self) -> str:
        try:
            return self.sock.recv(65536).decode("ascii").removesuffix("\n")
        except TimeoutError:
            raise AssertionError(f"no answer within {bounds.BOUND_S:g} s") from None

    def close(self) -> None:
        self.sock.close()


@define(eq=False)
class _ItemCaller:
    hub: Hub
    number: int
    name: object = None

    def say(self, text: str, end: str = "\n") -> None:
        self.hub.put(self.number, (text + end).encode("ascii"))

    def hear(self) -> str:
        try:
            return self.hub.hear(self.number).decode("ascii").removesuffix("\n")
        except TimeoutError:
            raise AssertionError(f"no answer within {bounds.BOUND_S:g} s") from None

    def close(self) -> None:
        pass


@define(eq=False)
class Exchange:
    """A transport of one kind together with the way to call it."""

    kind: Kind
    _hub: Hub | None = field(default=None, init=False)
    _numbers: Any = field(factory=lambda: itertools.count(1), init=False)

    def transport(self) -> Transport:
        """A fresh one, on an address of the kernel's choice."""
        from tricorn.transports import TCP, UDP

        if self.kind is Kind.ITEM:
            self._hub = Hub()
            return Items(self._hub.inbox)
        return TCP("127.0.0.1", 0) if self.kind is Kind.STREAM else UDP("127.0.0.1", 0)

    def call(self, address: Any) -> Caller:
        """A new client of the server at ``address``."""
        return _MAKERS[self.kind](self, address)

    def _call_stream(self, address: Any) -> Caller:
        sock = socket.create_connection(address, timeout=bounds.BOUND_S)
        return _StreamCaller(sock, sock.getsockname())

    def _call_packet(self, address: Any) -> Caller:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(bounds.BOUND_S)
        sock.connect(address)
        return _PacketCaller(sock, sock.getsockname())

    def _call_item(self, address: Any) -> Caller:
        expect(self._hub is not None, "the transport comes first")
        assert self._hub is not None
        return _ItemCaller(self._hub, next(self._numbers))

    def close(self) -> None:
        """Give back what the kind needs beside its callers."""
        if self._hub is not None:
            self._hub.close()
            self._hub = None


_MAKERS: dict[Kind, Callable[[Exchange, Any], Caller]] = {
    Kind.STREAM: Exchange._call_stream,
    Kind.DATAGRAM: Exchange._call_packet,
    Kind.ITEM: Exchange._call_item,
}
