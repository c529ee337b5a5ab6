"""The kit finds transports that break the law, and says which."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from attrs import define, field, frozen

from tricorn.connection import Connection, accept_stream
from tricorn.contracts import Item, Kind, Listener, Transport
from tricorn.datagram import Datagram
from tricorn.testing import bounds, check_transport


@define(eq=False)
class PlainListener(Listener):
    """A right one; the broken ones differ from it in one thing each."""

    kind: ClassVar[Kind] = Kind.STREAM
    sock: socket.socket

    def __attrs_post_init__(self) -> None:
        self.address = self.sock.getsockname() or "chores:"

    def fileno(self) -> int:
        return self.sock.fileno()

    def accept(self) -> Any:
        return accept_stream(self.sock, socket.AF_INET)

    def close(self) -> None:
        self.sock.close()


@frozen
class Plain(Transport):
    kind: ClassVar[Kind] = Kind.STREAM
    listener: type[PlainListener] = PlainListener
    blocking: bool = False

    def listen(self) -> Sequence[Listener]:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(self.blocking)
        return [self.listener(sock)]


def with_connection(connection: type[Connection]) -> Callable[[], Transport]:
    class Listening(PlainListener):
        def accept(self) -> Any:
            accepted = accept_stream(self.sock, socket.AF_INET)
            return connection(accepted.socket, accepted.peer)

    return lambda: Plain(Listening)


@frozen
class Opening(Plain):
    opened: int = field(factory=lambda: os.dup(0))

    def __attrs_post_init__(self) -> None:
        LEFT.append(self.opened)


class Empty(Plain):
    def listen(self) -> Sequence[Listener]:
        return []


class Inheriting(Plain):
    def listen(self) -> Sequence[Listener]:
        (listener,) = super().listen()
        os.set_inheritable(listener.fileno(), True)
        return [listener]


class Waiting(PlainListener):
    def accept(self) -> Any:
        return Connection(self.sock, ("127.0.0.1", 1))


class Silent(PlainListener):
    def fileno(self) -> int:
        return -1 if self.sock.fileno() < 0 else self.hidden.fileno()

    @property
    def hidden(self) -> socket.socket:
        if not hasattr(self, "_hidden"):
            self._hidden, self._other = socket.socketpair()
            self._hidden.setblocking(False)
        return self._hidden  # type: ignore[no-any-return, has-type]

    def close(self) -> None:
        self.hidden.close()
        self._other.close()
        super().close()


class Keeping(PlainListener):
    def close(self) -> None:
        self.kept = os.dup(self.sock.fileno())
        super().close()
        LEFT.append(self.kept)


class Final(PlainListener):
    def disown(self) -> None:
        self.sock.shutdown(socket.SHUT_RD)
        self.sock.close()


class Stubborn(Connection):
    def drain(self) -> None:
        pass


class Hasty(Connection):
    def drain(self) -> None:
        super().drain()
        self.abort()


class Untouchable(Connection):
    def abort(self) -> None:
        pass


class Mumbling(Connection):
    def finish(self, error: BaseException | None) -> None:
        self.socket.close()


LEFT: list[int] = []

BROKEN: dict[str, tuple[Callable[[], Transport], str]] = {
    "opens early": (Opening, "building a transport opens nothing; building it opened descriptor"),
    "no listener": (Empty, "listen.. returned no listener"),
    "blocks": (lambda: Plain(blocking=True), "the descriptor blocks"),
    "inherited": (Inheriting, "the descriptor is inherited"),
    "accepts nobody": (lambda: Plain(Waiting), "before anybody came accept.. returned"),
    "never readable": (lambda: Plain(Silent), "fileno.. did not become readable within 1 s"),
    "keeps a copy": (lambda: Plain(Keeping), "left behind: descriptor"),
    "disowns for all": (lambda: Plain(Final), "after disown.. in one process nobody could connect"),
    "does not drain": (with_connection(Stubborn), "drain.. lets a handler that waits .* see the end"),
    "drains too much": (with_connection(Hasty), "drain.. leaves a request that is under way alone"),
    "does not abort": (with_connection(Untouchable), "abort.. cuts off a handler in the middle of a request"),
    "leaves files": (with_connection(Mumbling), "finish.. delivers what was sent and shows the peer the end"),
}


@pytest.mark.filterwarnings("ignore:Exception ignored")  # sockets that broken parts forget
@pytest.mark.parametrize(("broken", "found"), BROKEN.values(), ids=BROKEN)
def test_found(broken: Callable[[], Transport], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each broken transport is found, by its name and the law."""
    monkeypatch.setattr("tricorn.testing.leaks.PATIENCE_S", 0.1)
    monkeypatch.setattr(bounds, "BOUND_S", 1.0)
    with pytest.raises(AssertionError, match=f"^[A-Z][a-z]+ breaks the law: .*{found}"):
        check_transport(broken)
    while LEFT:
        os.close(LEFT.pop())


def test_right() -> None:
    """What they all differ from keeps every law."""
    check_transport(Plain)


def test_own_way_to_connect() -> None:
    """The kit connects by the function that it is given."""
    called: list[object] = []

    def connect(transport: Transport, address: Any) -> socket.socket:
        called.append(address)
        return socket.create_connection(address, timeout=10)

    check_transport(Plain, connect=connect)
    assert called


class Deaf(Datagram):
    def reply(self, data: Any) -> int:
        return len(data)


def test_lost_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A datagram whose reply never leaves is found."""

    class Listening(PlainListener):
        kind = Kind.DATAGRAM

        def accept(self) -> Any:
            return Deaf(*self.sock.recvfrom(100), self.sock)

    class Packets(Plain):
        kind = Kind.DATAGRAM

        def listen(self) -> Sequence[Listener]:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            return [Listening(sock)]

    monkeypatch.setattr(bounds, "BOUND_S", 0.2)
    with pytest.raises(AssertionError, match="Packets breaks the law"):
        check_transport(Packets)


class Chore(Item):
    def __init__(self, value: bytes) -> None:
        self.value = value

    def ack(self) -> None: ...
    def nack(self, delay: float = 0.0) -> None: ...


@define(eq=False)
class ChoreListener(PlainListener):
    kind: ClassVar[Kind] = Kind.ITEM

    outbox: socket.socket

    def accept(self) -> Any:
        return Chore(self.sock.recv(100))

    def close(self) -> None:
        self.sock.close()
        self.outbox.close()


@frozen
class Chores(Transport):
    """A source that is no listening socket."""

    kind: ClassVar[Kind] = Kind.ITEM
    in_process: ClassVar[bool] = True
    newest: list[socket.socket] = field(factory=list, eq=False)

    def listen(self) -> Sequence[Listener]:
        inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        inbox.setblocking(False)
        self.newest[:] = [outbox]
        return [ChoreListener(inbox, outbox)]


def test_items() -> None:
    """A source of items is checked with a function that makes one pending."""

    def offer(transport: Transport, address: object) -> socket.socket:
        assert isinstance(transport, Chores)
        transport.newest[0].send(b"wash up")
        return transport.newest[0]

    check_transport(Chores, connect=offer)
