"""Opening: who is silent, who speaks something else, and who does not like our certificate."""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import threading
import warnings
from time import monotonic
from typing import Any

import pytest
import trustme

from tricorn import Deadline, HandshakeError, HandshakeTimeout, Server, Stage, StateError, Status
from tricorn.errors import ConnectionLost
from tricorn.events import JobFinished
from tricorn.strategies import Fork, Sync, Thread, ThreadPool
from tricorn.tls_connection import TLSConnection
from tricorn.transports import TCP


def echo(connection: Any) -> None:
    while data := connection.recv():
        connection.send(data)


def outcome(recorder: Any) -> Any:
    return recorder.wait(JobFinished, 1)[0].outcome


def test_a_silent_client_delays_nobody(authority: Any, serve: Any, dial: Any, call: Any, recorder: Any) -> None:
    """Accepting goes on while it holds its own worker, until its time is over."""
    server = serve(authority.tls(handshake_timeout=1.0), ThreadPool(2), echo)
    silent = dial(server)
    for _ in range(5):
        client = call(server)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        client.close()
    assert silent.recv(1) == b""
    (failed,) = [each.outcome for each in recorder.wait(JobFinished, 6) if each.outcome.status is not Status.COMPLETED]
    assert (failed.status, failed.stage) == (Status.TIMED_OUT, Stage.OPEN)
    assert isinstance(failed.error, HandshakeTimeout)
    assert str(failed.error) == "the TLS handshake was not over after 1 s"


def test_a_client_that_trickles_gets_no_more_time(authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """The deadline is for the whole handshake, and not for each of its bytes."""
    server = serve(authority.tls(handshake_timeout=0.5), Thread(), echo)
    client = dial(server)
    client.settimeout(0.02)
    client.sendall(b"\x16\x03\x01\x02\x00")
    while True:
        try:
            client.sendall(b"\x01")
            if client.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    assert outcome(recorder).status is Status.TIMED_OUT


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain HTTP to a TLS port: it should use https://"),
        (b"CONNECT x:443 HTTP/1.1\r\n\r\n", "a plain CONNECT to a TLS port"),
        (b"EHLO me\r\n", "does not speak TLS"),
        (b"\0" * 100, "does not speak TLS"),
        (b"\x16\x03\x01\xff\xff" + b"x" * 100, "does not speak TLS"),
        (b"\x80\x2e\x01\x00\x02" + b"x" * 100, ""),
    ],
)
def test_plain_text_to_a_tls_port(
    sent: bytes, said: str, authority: Any, serve: Any, dial: Any, call: Any, recorder: Any
) -> None:
    """Is refused before the handler, with what the peer did, and harms nobody else."""
    server = serve(authority.tls(), Thread(), echo)
    plain = dial(server)
    plain.sendall(sent)
    refused = outcome(recorder)
    assert (refused.status, refused.stage) == (Status.REFUSED, Stage.OPEN)
    assert isinstance(refused.error, HandshakeError)
    assert said in str(refused.error)
    client = call(server)
    client.sendall(b"x")
    assert client.recv(1) == b"x"


def test_a_tls_client_to_a_plain_port(authority: Any, serve: Any, call: Any, dial: Any) -> None:
    """The handler sees bytes that mean nothing to it, the client an error, and the server lives."""
    seen: list[bytes] = []

    def look(connection: Any) -> None:
        seen.append(connection.recv())
        connection.send(b"what?\r\n")

    server = serve(TCP("127.0.0.1", 0), Thread(), look)
    with pytest.raises(ssl.SSLError):
        call(server)
    assert seen[0][:2] == b"\x16\x03"
    plain = dial(server)
    plain.sendall(b"x")
    assert plain.recv(100) == b"what?\r\n"


def test_a_client_that_refuses_our_certificate(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """Is told of as that, and not as an error of ours."""
    server = serve(authority.tls(), Thread(), echo)
    with pytest.raises(ssl.SSLCertVerificationError):
        call(server, ssl.create_default_context())
    refused = outcome(recorder)
    assert (refused.status, refused.stage) == (Status.REFUSED, Stage.OPEN)
    assert str(refused.error) == "the peer refuses our certificate: it does not know who signed it"


def test_a_client_with_old_versions_only(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """TLS 1.2 at least."""
    server = serve(authority.tls(), Thread(), echo)
    old = authority.client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        call(server, old)
    assert "speaks none of the TLS versions" in str(outcome(recorder).error)


def test_the_minimum_can_be_raised(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """To TLS 1.3."""
    server = serve(authority.tls(minimum_version="1.3"), Thread(), echo)
    with pytest.raises(ssl.SSLError):
        call(server, authority.client(maximum_version=ssl.TLSVersion.TLSv1_2))
    assert outcome(recorder).status is Status.REFUSED


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_is_no_refusal(reset: bool, authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """A port scan, or a balancer that looks whether somebody listens: DISCONNECTED, which nobody logs."""
    server = serve(authority.tls(), Thread(), echo)
    plain = dial(server)
    if reset:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.close()
    left = outcome(recorder)
    assert (left.status, left.stage) == (Status.DISCONNECTED, Stage.OPEN)
    assert isinstance(left.error, ConnectionLost)


@pytest.mark.parametrize("make", [Thread, Fork])
def test_nobody_logs_a_traceback_for_what_a_peer_did(make: Any, authority: Any, dial: Any, caplog: Any) -> None:
    """One line at INFO, whichever process it happened in."""
    caplog.set_level("INFO", "tricorn")
    with Server(authority.tls(), make(), echo) as server:
        server.start()
        plain = dial(server)
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((ConnectionError, AssertionError)):
            while data := plain.recv(100):
                assert not data
            raise ConnectionError
    (record,) = [record for record in caplog.records if "refused" in record.getMessage() and "request" in record.msg]
    assert record.levelname == "INFO"
    assert record.exc_info is None
    assert "plain HTTP to a TLS port" in record.getMessage()


def test_a_drain_does_not_wait_for_a_silent_client(authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """Who has begun a handshake gets a moment to end it, and who has not gets no more than that."""
    server = serve(authority.tls(), Thread(), echo)
    _silent = dial(server)
    opening = threading.Event()
    while not opening.is_set():
        if any(job.stage is Stage.OPEN for job in server.jobs()):
            opening.set()
    began = monotonic()
    report = server.drain(5)
    assert monotonic() - began < 4
    assert report.clean and report.disconnected == 1


# -- without blocking, as event loops do it


@pytest.fixture
def accepted(authority: Any, dial: Any) -> Any:
    """A non-blocking connection that is not open yet, and its peer in plain text."""
    (listener,) = authority.tls(alpn=("h2",), handshake_timeout=5).listen()
    plain = dial(listener.address)
    connection: Any = None
    while connection is None:
        try:
            connection = listener.accept()
        except BlockingIOError:
            continue
    connection.socket.setblocking(False)
    yield connection, plain
    connection.finish(None)
    listener.close()


def test_opening_in_steps(accepted: Any, authority: Any) -> None:
    """A step never blocks; then there are bytes that no selector sees, and errors that mean: wait."""
    connection, plain = accepted
    assert connection.open_step() == selectors.EVENT_READ
    result: list[Any] = []

    def client() -> None:
        context = authority.client()
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(plain.dup(), server_hostname="localhost") as sock:
            sock.sendall(b"abcdef")
            result.append(sock.recv(10))

    thread = threading.Thread(target=client)
    thread.start()
    with selectors.DefaultSelector() as selector:
        selector.register(connection.socket, selectors.EVENT_READ)
        while wanted := connection.open_step():
            selector.modify(connection.socket, wanted)
            assert selector.select(10)
        assert (connection.alpn, connection.server_name) == ("h2", "localhost")
        assert connection.open_step() == 0
        data = b""
        while not data:
            try:
                data = connection.socket.recv(2)
            except OSError as error:
                assert connection.wanted(error, 0) == selectors.EVENT_READ
                selector.modify(connection.socket, selectors.EVENT_READ)
                assert selector.select(10)
    assert data == b"ab"
    assert connection.buffered() == 4
    assert connection.socket.send(b"reply") == 5
    thread.join()
    assert result == [b"reply"]
    assert connection.wanted(BlockingIOError(), selectors.EVENT_WRITE) == selectors.EVENT_WRITE
    assert connection.wanted(ssl.SSLWantWriteError(), selectors.EVENT_READ) == selectors.EVENT_WRITE
    assert connection.wanted(ConnectionResetError(), selectors.EVENT_READ) == 0


def test_a_step_after_the_deadline_fails(accepted: Any) -> None:
    """The loop knows by when from `open_until`."""
    connection, _ = accepted
    assert connection.open_until is None
    assert connection.open_step() == selectors.EVENT_READ
    assert 0 < connection.open_until.remaining() <= 5
    connection._deadline = Deadline.after(0)
    with pytest.raises(HandshakeTimeout):
        connection.open_step()
    assert isinstance(connection.fault, HandshakeTimeout)


def test_a_step_that_fails_says_what_the_peer_did(accepted: Any) -> None:
    """As `open` does."""
    connection, plain = accepted
    plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with selectors.DefaultSelector() as selector:
        selector.register(connection.socket, selectors.EVENT_READ)
        assert selector.select(10)
    with pytest.raises(HandshakeError, match="plain HTTP"):
        while connection.open_step():
            pass


def test_a_loop_may_do_the_handshake_itself(accepted: Any, authority: Any) -> None:
    """With `tls`, on memory; then it tells the connection."""
    connection, _ = accepted
    here, there = (ssl.MemoryBIO(), ssl.MemoryBIO()), (ssl.MemoryBIO(), ssl.MemoryBIO())
    ours = connection.tls.wrap_bio(*here, server_side=True)
    context = authority.client()
    context.set_alpn_protocols(["h2"])
    theirs = context.wrap_bio(*there, server_hostname="LocalHost")
    done: set[Any] = set()
    while len(done) < 2:
        for side in (theirs, ours):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
            here[0].write(there[1].read())
            there[0].write(here[1].read())
    connection.opened_by(ours)
    assert (connection.server_name, connection.alpn, connection.certificate) == ("localhost", "h2", None)


def test_an_open_connection_stays_in_its_process(accepted: Any) -> None:
    """Its keys cannot be sent along; before it is open, how to restore it can."""
    connection, _ = accepted
    assert len(connection.restorers) == 1
    connection.open_step()
    with pytest.raises(StateError, match="cannot be given to another"):
        _ = connection.restorers


def test_it_cannot_be_rehoused(accepted: Any) -> None:
    """A cooperative socket class would lose the encryption."""
    connection, _ = accepted
    assert isinstance(connection, TLSConnection)
    with pytest.raises(StateError, match="another socket class"):
        connection.rehouse(socket.socket)


def test_client_certificates(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """Required: who has none, or one of somebody else's, is refused; who has a good one is known."""
    seen: list[Any] = []

    def look(connection: Any) -> None:
        seen.append(connection.certificate["subjectAltName"])
        connection.send(b"x")

    server = serve(authority.tls(client_certificates="required", client_ca=authority.file), Sync(), look)
    good = authority.client()
    authority.ca.issue_cert("me.example").configure_cert(good)
    assert call(server, good).recv(1) == b"x"
    assert seen == [(("DNS", "me.example"),)]
    foreign = authority.client()
    trustme.CA().issue_cert("me.example").configure_cert(foreign)
    for context in (None, foreign):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(server, context).recv(1)  # in TLS 1.3 the client hears of it after its own handshake
    errors = [str(each.outcome.error) for each in recorder.wait(JobFinished, 3)[1:]]
    assert errors[0] == "the peer has shown no certificate, and client_certificates='required'"
    assert errors[1].startswith("the peer's certificate is not accepted: unable to get local issuer")


def test_optional_client_certificates(authority: Any, serve: Any, call: Any) -> None:
    """Who has none may come in, and has none."""
    seen: list[Any] = []

    def look(connection: Any) -> None:
        seen.append(connection.certificate)
        connection.send(b"x")

    server = serve(authority.tls(client_certificates="optional", client_ca=authority.file), Sync(), look)
    assert call(server).recv(1) == b"x"
    assert seen == [None]
