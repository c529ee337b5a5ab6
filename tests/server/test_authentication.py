"""Who may come in: the wiring of authenticators, and those that need no TLS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import ConfigurationError, IncompatibleParts, Server, Stage, Status
from tricorn.authentication import ClientCertificate, PeerCredentials, SharedSecret, answer_challenge
from tricorn.errors import AuthenticationError, HandshakeTimeout
from tricorn.events import JobFinished
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.transports import TCP, UDP, Memory, UnixStream

LOCAL = TCP("127.0.0.1", 0)
SECRET = b"0123456789abcdef"
DISPATCHERS: dict[str, Callable[[], Any]] = {
    "sync": Sync,
    "thread": Thread,
    "thread-pool": lambda: ThreadPool(4),
    "fork": Fork,
    "process-pool": lambda: ProcessPool(2),
}


def tell(connection: Any) -> None:
    """A handler that says who it takes the peer for."""
    connection.send(repr(connection.identity).encode())


@pytest.fixture(params=DISPATCHERS)
def dispatcher(request: pytest.FixtureRequest) -> Any:
    """Every dispatcher that runs blocking handlers."""
    return DISPATCHERS[request.param]()


def outcome(recorder: Any, n: int = 1) -> Any:
    return recorder.wait(JobFinished, n)[n - 1].outcome


# -- the wiring


def test_the_handler_knows_who_it_is(dispatcher: Any, serve: Any, dial: Any) -> None:
    """What the authenticator returned is the connection's identity, wherever the handler runs."""
    server = serve(LOCAL, dispatcher, lambda connection: ("host", connection.peer[0]))
    assert dial(server).recv(100) == b"('host', '127.0.0.1')"


def test_a_peer_that_is_turned_away_never_reaches_the_handler(
    dispatcher: Any, serve: Any, dial: Any, recorder: Any
) -> None:
    """It sees the end, and we see why; the next is served."""
    turns = iter([None])

    def authenticate(connection: Any) -> Any:
        if connection.recv(1) == b"x":
            raise AuthenticationError("x is not among our friends")
        return next(turns, "friend")

    server = serve(LOCAL, dispatcher, authenticate)
    client = dial(server)
    client.sendall(b"x")
    assert client.recv(100) == b""
    refused = outcome(recorder)
    assert (refused.status, refused.stage, refused.detail) == (Status.REFUSED, Stage.OPEN, "not authenticated")
    assert "x is not among our friends" in str(refused.error)
    assert recorder.of(JobFinished)[0].outcome.peer == client.getsockname()


def test_none_turns_away(serve: Any, dial: Any, recorder: Any) -> None:
    """Who is nobody may not come in."""
    server = serve(LOCAL, Sync(), lambda connection: None)
    assert dial(server).recv(1) == b""
    assert outcome(recorder).status is Status.REFUSED
    assert isinstance(outcome(recorder).error, AuthenticationError)


@pytest.mark.parametrize("value", ["", 0, False])
def test_any_other_value_is_an_identity(value: Any, serve: Any, dial: Any) -> None:
    """Also one that is false."""
    assert dial(serve(LOCAL, Sync(), lambda connection: value)).recv(10) == repr(value).encode()


def test_an_authenticator_that_fails_lets_nobody_in(serve: Any, dial: Any, recorder: Any, caplog: Any) -> None:
    """It is a mistake of ours, and is logged as one."""
    server = serve(LOCAL, Thread(), lambda connection: {}["missing"])
    assert dial(server).recv(1) == b""
    refused = outcome(recorder)
    assert (refused.status, refused.detail) == (Status.REFUSED, "authenticate raised")
    assert isinstance(refused.error, KeyError)


@pytest.mark.parametrize("make", [Thread, Fork])
def test_the_log_tells_a_refusal_from_a_mistake(make: Any, dial: Any, caplog: Any) -> None:
    """A peer that may not come in is a line at INFO; an authenticator that breaks has a traceback."""
    caplog.set_level("INFO", "tricorn")

    def authenticate(connection: Any) -> Any:
        if connection.recv(1) == b"x":
            raise AuthenticationError("no")
        raise ZeroDivisionError

    with Server(LOCAL, make(), tell, authenticate=authenticate) as server:
        server.start()
        for word in (b"x", b"y"):
            client = dial(server)
            client.sendall(word)
            assert client.recv(1) == b""
    records = [record for record in caplog.records if "refused" in record.getMessage() and "request" in record.msg]
    told = {record.levelname: record for record in records}
    assert len(records) == 2
    assert told["WARNING"].exc_info is not None
    assert told["INFO"].exc_info is None
    assert "not authenticated" in told["INFO"].getMessage()


def test_a_silent_peer_has_no_more_than_its_time(dispatcher: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """A blocking call of any authenticator ends with it; the connection has no limit afterwards."""

    def authenticate(connection: Any) -> Any:
        return connection.recv(1)

    def handler(connection: Any) -> None:
        connection.send(repr((connection.socket.gettimeout(), connection.deadline)).encode())

    server = serve(LOCAL, dispatcher, authenticate, handler, authenticate_timeout=0.2)
    assert dial(server).recv(1) == b""
    late = outcome(recorder)
    assert (late.status, late.stage) == (Status.TIMED_OUT, Stage.OPEN)
    client = dial(server)
    client.sendall(b"x")
    assert client.recv(100) == b"(None, None)"


def test_an_authenticator_that_took_too_long_lets_nobody_in(serve: Any, dial: Any, recorder: Any) -> None:
    """Though it returned somebody in the end."""

    def authenticate(connection: Any) -> Any:
        while not connection.deadline.expired:
            threading.Event().wait(0.01)
        return "late"

    server = serve(LOCAL, Thread(), authenticate, authenticate_timeout=0.05)
    assert dial(server).recv(1) == b""
    late = outcome(recorder)
    assert late.status is Status.TIMED_OUT
    assert isinstance(late.error, HandshakeTimeout)


def test_a_peer_that_leaves_is_no_refusal(serve: Any, dial: Any, recorder: Any) -> None:
    """DISCONNECTED, as anywhere else."""
    server = serve(LOCAL, Thread(), SharedSecret(SECRET))
    dial(server).close()
    left = outcome(recorder)
    assert (left.status, left.stage) == (Status.DISCONNECTED, Stage.OPEN)
    assert isinstance(left.error, ConnectionError)


def test_it_works_on_connections_without_a_descriptor(serve: Any) -> None:
    """In memory, where a program tests itself."""
    transport = Memory()
    serve(transport, Thread(), SharedSecret({"me": SECRET}))
    with transport.connect() as client:
        answer_challenge(client, SECRET, "me")
        assert client.recv(10) == b"'me'"


# -- what does not fit


class Anybody:
    """An authenticator that is a class."""

    def __call__(self, connection: Any) -> str:
        return "anybody"


async def later(connection: Any) -> str:
    return "later"


@pytest.mark.parametrize(
    ("transport", "authenticate", "kind", "said"),
    [
        (LOCAL, "me", ConfigurationError, "authenticate is 'me'; allowed: a callable"),
        (LOCAL, Anybody, ConfigurationError, r"did you mean Anybody\(\)\?"),
        (LOCAL, later, ConfigurationError, "cannot be called with a connection"),
        (UDP(), Anybody(), IncompatibleParts, "authenticate looks at connections, and UDP yields datagram requests"),
        (
            LOCAL,
            PeerCredentials(),
            IncompatibleParts,
            "PeerCredentials goes by the peer's credentials, .* use UnixStream",
        ),
        (LOCAL, ClientCertificate(), IncompatibleParts, "ClientCertificate goes by the peer's certificate, .* use TLS"),
        ([UnixStream("@x"), LOCAL], PeerCredentials(), IncompatibleParts, "connections of TCP lack"),
    ],
)
def test_what_does_not_fit_is_refused(transport: Any, authenticate: Any, kind: Any, said: str) -> None:
    """When the server is built, in a sentence."""
    with pytest.raises(kind, match=said):
        Server(transport, Sync(), tell, authenticate=authenticate)


@pytest.mark.parametrize("timeout", [-1, None, "5", True])
def test_its_time_is_bounded(timeout: Any) -> None:
    """Never unlimited."""
    with pytest.raises(ConfigurationError, match="authenticate_timeout is .*never unlimited"):
        Server(LOCAL, Sync(), tell, authenticate=Anybody(), authenticate_timeout=timeout)


def test_one_that_talks_does_not_fit_a_loop() -> None:
    """A loop must not wait for one peer."""

    class Loop(Thread):
        needs_descriptors = True

    with pytest.raises(
        IncompatibleParts, match="SharedSecret talks to the peer and waits for it, and Loop must not wait"
    ):
        Server(LOCAL, Loop(), tell, authenticate=SharedSecret(SECRET))
    Server(LOCAL, Loop(), tell, authenticate=Anybody())
