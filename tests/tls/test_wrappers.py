"""Wrappers of others, below TLS: their opening comes first, in every process."""

from __future__ import annotations

import selectors
import socket
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from tricorn import Connection, HandshakeError, Listener, Server, Status, Transport, plugins
from tricorn.contracts import Kind
from tricorn.deadline import Deadline
from tricorn.events import JobFinished
from tricorn.handover import restorable
from tricorn.names import transport
from tricorn.strategies import ProcessPool, Thread
from tricorn.transports import TCP, TLS


@attrs.define(eq=False)
class NamedConnection(Connection):
    """Begins with eight bytes in plain text: who the peer says it is."""

    numbers: tuple[int, ...] = attrs.field(kw_only=True)

    @property
    def restorers(self) -> tuple[int, ...]:
        return self.numbers

    def open(self, deadline: Deadline) -> None:
        self._read(0)

    def open_step(self) -> int:
        try:
            self._read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return selectors.EVENT_READ
        return 0

    def _read(self, flags: int) -> None:
        name = self.socket.recv(8, flags)
        if not name.isalpha():
            self.socket.fault = HandshakeError(f"{name!r} is no name")
            raise self.socket.fault
        self.peer = name.decode()


@attrs.define(eq=False)
class NamedListener(Listener):
    kind: ClassVar[Kind] = Kind.STREAM
    inner: Any
    address: Any = attrs.field(init=False)
    number: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.address = self.inner.address
        self.number = restorable(self)

    def fileno(self) -> int:
        return self.inner.fileno()

    def accept(self) -> Any:
        return self.around(self.inner.accept())

    def around(self, inner: Any) -> Connection:
        return NamedConnection(inner.socket, inner.peer, numbers=(*inner.restorers, self.number))

    def close(self) -> None:
        self.inner.close()


@attrs.frozen
class Named(Transport):
    """Around another transport."""

    kind: ClassVar[Kind] = Kind.STREAM
    inner: Transport
    strict: bool = True

    def listen(self) -> Any:
        return tuple(NamedListener(listener) for listener in self.inner.listen())


def tell(connection: Any) -> None:
    connection.send(f"{connection.peer} {connection.socket.version()}".encode())


def test_what_lies_below_is_opened_first(authority: Any, dispatcher: Any, serve: Any, dial: Any) -> None:
    """And what it learns of the peer counts."""
    server = serve(authority.tls(Named(TCP("127.0.0.1", 0))), dispatcher, tell)
    plain = dial(server)
    plain.sendall(b"somebody")
    with authority.client().wrap_socket(plain, server_hostname="localhost") as client:
        assert client.recv(100) == b"somebody TLSv1.3"


def test_what_fails_below_is_told_as_it_is(authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """Before any handshake."""
    server = serve(authority.tls(Named(TCP("127.0.0.1", 0))), Thread(), tell)
    dial(server).sendall(b"12345678")
    outcome = recorder.wait(JobFinished)[0].outcome
    assert outcome.status is Status.REFUSED
    assert "is no name" in str(outcome.error)


def test_all_layers_are_restored_where_a_connection_is_handed_over(authority: Any, dial: Any) -> None:
    """In a worker that gets the bare descriptor."""
    with Server(authority.tls(Named(TCP("127.0.0.1", 0))), ProcessPool(1), tell) as server:
        plain = dial(server)
        assert server.handle_request(10)
        plain.sendall(b"somebody")
        with authority.client().wrap_socket(plain, server_hostname="localhost") as client:
            assert client.recv(100) == b"somebody TLSv1.3"


def test_what_lies_below_is_opened_in_steps(authority: Any, dial: Any) -> None:
    """For loops; those that do the handshake themselves stop there."""
    (listener,) = authority.tls(Named(TCP("127.0.0.1", 0))).listen()
    plain = dial(listener.address)
    connection: Any = None
    while connection is None:
        try:
            connection = listener.accept()
        except BlockingIOError:
            continue
    connection.socket.setblocking(False)
    assert connection.open_step() == selectors.EVENT_READ
    assert connection.reach_tls() == selectors.EVENT_READ
    assert connection.open_until is None
    plain.sendall(b"somebody")
    with selectors.DefaultSelector() as selector:
        selector.register(connection.socket, selectors.EVENT_READ)
        assert selector.select(10)
    assert connection.reach_tls() == 0
    assert connection.peer == "somebody"
    assert connection.open_step() == selectors.EVENT_READ
    assert connection.open_until is not None
    connection.finish(None)
    listener.close()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A distribution that offers the wrapper above by the name ``named``."""
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tricorn]\nmain = acme_named\n")
    source = """
        from tricorn.hookspecs import hookimpl
        from tricorn.parts import WrapperPart

        target = None

        @hookimpl
        def tricorn_wrappers():
            yield WrapperPart("named", target)
        """
    (tmp_path / "acme_named.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    import acme_named  # type: ignore[import-not-found]

    monkeypatch.setattr(acme_named, "target", Named)
    plugins.reset()
    yield
    plugins.reset()
    del sys.modules["acme_named"]


def test_a_wrapper_of_another_distribution(installed: Any) -> None:
    """Is found by name, and can be wrapped in turn."""
    made = transport("tls+named+tcp://127.0.0.1:8443?certfile=c.pem&strict=false&backlog=7")
    assert made == TLS(Named(TCP("127.0.0.1", 8443, backlog=7), strict=False), certfile="c.pem")
