"""The authenticators that come with Tricorn and need no TLS: `PeerCredentials` and `SharedSecret`."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tricorn import ConfigurationError, Status
from tricorn.authentication import PeerCredentials, SharedSecret, answer_challenge
from tricorn.connection import Credentials
from tricorn.errors import AuthenticationError
from tricorn.events import JobFinished
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.transports import TCP, UnixStream

LOCAL = TCP("127.0.0.1", 0)
SECRET = b"0123456789abcdef"
DISPATCHERS: dict[str, Callable[[], Any]] = {
    "sync": Sync,
    "thread": Thread,
    "thread-pool": lambda: ThreadPool(4),
    "fork": Fork,
    "process-pool": lambda: ProcessPool(2),
}


@pytest.fixture(params=DISPATCHERS)
def dispatcher(request: pytest.FixtureRequest) -> Any:
    """Every dispatcher that runs blocking handlers."""
    return DISPATCHERS[request.param]()


def outcome(recorder: Any, n: int = 1) -> Any:
    return recorder.wait(JobFinished, n)[n - 1].outcome


# -- credentials


def unix_client(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path))
    return client


def test_peer_credentials(dispatcher: Any, serve: Any, tmp_path: Path) -> None:
    """By default the user that the server runs as; the identity is what the kernel attests."""
    path = tmp_path / "s"
    serve(UnixStream(path), dispatcher, PeerCredentials())
    with unix_client(path) as client:
        assert client.recv(200).decode() == repr(Credentials(os.getpid(), os.getuid(), os.getgid()))


@pytest.mark.parametrize(
    ("options", "well"),
    [
        ({"uids": {os.geteuid()}}, True),
        ({"gids": [os.getegid()]}, True),
        ({"uids": [os.geteuid() + 1], "gids": {os.getegid()}}, True),
        ({"uids": {os.geteuid() + 1}}, False),
        ({"gids": {os.getegid() + 1}}, False),
        ({"uids": ()}, False),
    ],
)
def test_which_credentials_may_come_in(options: Any, well: bool, serve: Any, tmp_path: Path, recorder: Any) -> None:
    """One of either is enough, and an empty set is nobody."""
    path = tmp_path / "s"
    serve(UnixStream(path), Thread(), PeerCredentials(**options))
    with unix_client(path) as client:
        assert bool(client.recv(200)) is well
    if not well:
        assert f"process {os.getpid()} of user {os.geteuid()}" in str(outcome(recorder).error)


@pytest.mark.parametrize("options", [{"uids": "root"}, {"uids": 3}, {"gids": {"wheel"}}, {"uids": {True}}])
def test_credentials_are_numbers(options: Any) -> None:
    """Names would have to be looked up."""
    with pytest.raises(ConfigurationError, match="numbers of users or groups"):
        PeerCredentials(**options)


def test_no_credentials_on_other_sockets() -> None:
    """Where it is used by hand."""

    class Plain:
        credentials = None

    with pytest.raises(AuthenticationError, match="no Unix socket"):
        PeerCredentials()(Plain())  # type: ignore[arg-type]


# -- a shared secret


def test_a_shared_secret(dispatcher: Any, serve: Any, dial: Any) -> None:
    """Who knows it is known by its name, and what it sent at once is the handler's."""
    server = serve(LOCAL, dispatcher, SharedSecret({"alice": SECRET, "bob": SECRET * 2, "zoë": SECRET * 3}))
    for name, secret in (("alice", SECRET), ("bob", SECRET * 2), ("zoë", SECRET * 3)):
        client = dial(server)
        answer_challenge(client, secret, name)
        assert client.recv(100).decode() == repr(name)
        client.close()


def test_one_secret_for_all(serve: Any, dial: Any) -> None:
    """Needs no name."""
    client = dial(serve(LOCAL, Thread(), SharedSecret(SECRET)))
    answer_challenge(client, SECRET)
    assert client.recv(100) == b"''"


def test_nothing_behind_the_answer_is_taken(serve: Any, dial: Any) -> None:
    """A peer that is sure of itself may send its request along."""
    server = serve(LOCAL, Thread(), SharedSecret(SECRET), lambda connection: connection.send(connection.recv(5)))
    client = dial(server)

    class Hasty:
        recv = client.recv

        @staticmethod
        def sendall(data: bytes) -> None:
            client.sendall(data + b"hello")

    answer_challenge(Hasty(), SECRET)
    assert client.recv(10) == b"hello"


@pytest.mark.parametrize(("name", "secret"), [("alice", SECRET * 2), ("mallory", SECRET), ("", SECRET)])
def test_a_wrong_answer_is_turned_away(name: str, secret: bytes, serve: Any, dial: Any, recorder: Any) -> None:
    """Nobody learns whether the name or the secret was wrong."""
    client = dial(serve(LOCAL, Thread(), SharedSecret({"alice": SECRET})))
    with pytest.raises(AuthenticationError, match=f"does not accept the secret of '{name}'"):
        answer_challenge(client, secret, name)
    refused = outcome(recorder)
    assert refused.status is Status.REFUSED
    assert str(refused.error) == f"the answer of '{name}' is not right"


def test_an_answer_cannot_be_used_again(serve: Any, dial: Any, recorder: Any) -> None:
    """Each connection has a challenge of its own."""
    server = serve(LOCAL, Thread(), SharedSecret(SECRET))
    sent: list[bytes] = []

    class Overheard:
        def __init__(self, sock: Any) -> None:
            self.recv = sock.recv
            self.sock = sock

        def sendall(self, data: bytes) -> None:
            sent.append(data)
            self.sock.sendall(data)

    answer_challenge(Overheard(dial(server)), SECRET)
    replay = dial(server)
    assert len(replay.recv(40)) == 40
    replay.sendall(sent[0])
    assert replay.recv(1) == b""
    assert outcome(recorder, 2).status is Status.REFUSED


@pytest.mark.parametrize("sent", [b"\xff" + b"\xfe" * 287, b"\x00" * 33, b"GET / HTTP/1.1\r\n" * 20])
def test_rubbish_is_turned_away(sent: bytes, serve: Any, dial: Any, recorder: Any) -> None:
    """At most 288 bytes of it are read."""
    client = dial(serve(LOCAL, Thread(), SharedSecret(SECRET)))
    client.sendall(sent)
    assert outcome(recorder).status is Status.REFUSED


def test_a_peer_that_trickles_gets_no_more_time(serve: Any, dial: Any, recorder: Any) -> None:
    """The deadline is for all of it, and not for each byte."""
    client = dial(serve(LOCAL, Thread(), SharedSecret(SECRET), authenticate_timeout=0.3))
    client.recv(40)
    client.settimeout(0.02)
    client.sendall(b"\xff")
    while True:
        try:
            client.sendall(b"x")
            if client.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    assert outcome(recorder).status is Status.TIMED_OUT


def test_a_client_that_meets_something_else_says_so() -> None:
    """Before it has told anything."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"220 mail.example ESMTP and a long greeting, as usual\r\n")
        with pytest.raises(AuthenticationError, match="asks for no secret; it sent b'220 mail"):
            answer_challenge(ours, SECRET)


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        (b"short", "must be 16 bytes or more"),
        ({"a": "text"}, "must be 16 bytes or more"),
        ({}, "bytes, or a mapping"),
        ("text", "bytes, or a mapping"),
        ({"x" * 256: SECRET}, "no text of at most 255 bytes"),
        ({1: SECRET}, "no text of at most"),
    ],
)
def test_a_secret_that_cannot_work_is_refused(secrets: Any, said: str) -> None:
    """Without repeating it."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        SharedSecret(secrets)
    assert "short" not in str(caught.value)
    assert "0123" not in repr(SharedSecret(SECRET))
