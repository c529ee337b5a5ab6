"""Policies for urgent bytes: refused, left to the kernel, and kept wherever a connection goes."""

from __future__ import annotations

import os
import select
import socket
import sys
from contextlib import suppress

import pytest

from tricorn import Server
from tricorn.connection import Connection
from tricorn.errors import ConfigurationError, ConnectionLost, StateError
from tricorn.events import JobFinished, Status
from tricorn.handlers import BaseRequestHandler, StreamRequestHandler
from tricorn.handover import make_channel, receive_request, send_request
from tricorn.peer_socket import PeerSocket
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UnixStream
from tricorn.urgent import RefusingSocket

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the policies need Linux")

# -- refuse


@pytest.mark.parametrize("parts", [(b"!u",), (b"!u", b"after"), (b"!1", b"x", b"!2"), (b"!1", b"!2", b"x")])
def test_refuse_ends_the_conversation_and_returns_nothing_from_beside_it(pair, arrive, parts):
    """A receiving call that finds an urgent byte raises ConnectionLost, again and again; sending goes on."""
    client, connection = pair("refuse")
    client.say(*parts)
    arrive(connection, select.POLLPRI)
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="urgent='deliver' would") as caught:
            connection.recv()
        assert connection.fault is caught.value
    connection.send(b"last word")
    assert client.recv(20) == b"last word"


def test_refuse_wakes_a_thread_that_is_blocked_in_recv(pair, in_thread):
    """It does not take anything in the stream to learn of it."""
    client, connection = pair("refuse")
    received = in_thread(connection.recv)
    client.say(b"!u")
    with pytest.raises(ConnectionLost):
        received()


def test_refuse_looks_once_more_after_receiving(pair, arrive, monkeypatch):
    """Of two that come between looking and receiving the first is in what was received: nothing is returned."""
    client, connection = pair("refuse")
    client.say(b"x")
    arrive(connection)
    look = RefusingSocket._wait

    def late(self, *arguments):
        found = look(self, *arguments)
        client.say(b"!1", b"y", b"!2")
        arrive(connection, select.POLLPRI)
        return found

    monkeypatch.setattr(RefusingSocket, "_wait", late)
    with pytest.raises(ConnectionLost):
        connection.recv()


def test_refuse_leaves_other_streams_alone(pair):
    """Without urgent bytes all is as ever: data, the end, timeouts."""
    client, connection = pair("refuse")
    client.say(b"data")
    assert connection.recv() == b"data"
    connection.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        connection.recv()
    connection.socket.settimeout(0.001)
    with pytest.raises(TimeoutError):
        connection.recv()
    client.close()
    connection.socket.settimeout(10)
    assert connection.recv() == b""


# -- ignore


def test_by_default_the_kernel_keeps_it_out_of_the_stream(pair):
    """One urgent byte between ordinary ones is not in the stream; asking for it says how it would be had."""
    client, connection = pair("ignore")
    client.say(b"before", b"!u", b"after")
    client.shutdown(socket.SHUT_WR)
    assert b"".join(iter(connection.recv, b"")) == b"beforeafter"
    with pytest.raises(StateError, match="urgent='deliver'"):
        _ = connection.urgent


def test_the_default_costs_nothing(pair):
    """An accepted socket is the ordinary one, whose receiving calls know nothing of urgent bytes."""
    assert TCP().urgent == UnixStream("s").urgent == "ignore"
    _, connection = pair("ignore")
    assert type(connection.socket) is PeerSocket
    assert not connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)


# -- the whole way


def urgent_then_stream(connection):
    """Replies with what was urgent and what was not."""
    stream = b"".join(iter(connection.recv, b""))
    connection.send(connection.urgent.take() + b"|" + stream)


class ClassOfIt(BaseRequestHandler):
    """The same for a request-handler class, which sees the socket."""

    def handle(self):
        """Replies with what was urgent and what was not."""
        stream = b"".join(iter(lambda: self.request.recv(99), b""))
        self.request.sendall(self.request.urgent.take() + b"|" + stream)


class FilesOfIt(StreamRequestHandler):
    """The same with files."""

    def handle(self):
        """Replies with what was urgent and what was not."""
        stream = self.rfile.read()
        self.wfile.write(self.request.urgent.take() + b"|" + stream)


DISPATCHERS = [Sync, lambda: Thread(limit=4), lambda: ThreadPool(2), lambda: Fork(2), lambda: ProcessPool(2)]
NAMES = ["sync", "thread", "thread-pool", "fork", "process-pool"]


@pytest.mark.parametrize("handler", [urgent_then_stream, ClassOfIt, FilesOfIt])
@pytest.mark.parametrize("dispatcher", DISPATCHERS, ids=NAMES)
def test_under_every_dispatcher(transport, dial, dispatcher, handler):
    """Wherever the handler runs, and whatever shape it has, the byte comes to it apart from the stream."""
    with Server(transport("deliver"), dispatcher(), handler) as server:
        server.start()
        client = dial(server.address)
        client.say(b"before", b"!u", b"after")
        client.shutdown(socket.SHUT_WR)
        assert client.hear() == b"u|beforeafter"


@pytest.mark.parametrize("dispatcher", DISPATCHERS, ids=NAMES)
def test_refused_under_every_dispatcher(transport, dial, dispatcher):
    """The job ends as one whose peer is to blame, and the next is served."""
    recorder = Recorder()

    def echo(connection):
        connection.send(b"".join(iter(connection.recv, b"")))

    with Server(transport("refuse"), dispatcher(), echo, observers=[recorder]) as server:
        server.start()
        rude, polite = dial(server.address), dial(server.address)
        rude.say(b"!u")
        with suppress(ConnectionError):
            assert rude.recv(99) == b""
        polite.say(b"hello")
        polite.shutdown(socket.SHUT_WR)
        assert polite.hear() == b"hello"
        endings = [told.outcome.status for told in recorder.wait(JobFinished, 2)]
    assert sorted(endings, key=str) == sorted([Status.DISCONNECTED, Status.COMPLETED], key=str)


@pytest.mark.parametrize("policy", ["ignore", "refuse", "deliver"])
def test_the_policy_goes_with_a_connection_to_another_process(pair, policy):
    """A connection that is handed over keeps its kind of socket."""
    client, connection = pair(policy)
    here, there = make_channel()
    with here, there:
        send_request(here, 7, connection)
        number, arrived = receive_request(there)
    try:
        assert number == 7
        assert isinstance(arrived, Connection)
        assert type(arrived.socket) is type(connection.socket)
        client.say(b"x")
        assert arrived.recv() == b"x"
    finally:
        arrived.close()


# -- bad input


@pytest.mark.parametrize("value", ["inline", "", None, True, b"deliver"])
@pytest.mark.parametrize("build", [TCP, lambda **options: UnixStream("s", **options)])
def test_an_unknown_policy_is_a_configuration_error(build, value):
    """The message has the value and what is allowed."""
    with pytest.raises(ConfigurationError, match="urgent must be 'ignore', 'refuse' or 'deliver'"):
        build(urgent=value)


def test_elsewhere_than_on_linux_there_is_only_the_kernels_way(monkeypatch):
    """The other policies are refused when the transport is built."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert TCP().urgent == "ignore"
    with pytest.raises(ConfigurationError, match="need Linux"):
        TCP(urgent="refuse")


def test_by_name(tmp_path):
    """The option is written in the transport's name, and a wrong one is refused."""
    with Server("tcp://127.0.0.1:0?urgent=deliver", Sync(), print) as server:
        assert server.address
    with pytest.raises(ConfigurationError, match="urgent"):
        Server(f"unix:{tmp_path}/s?urgent=inline", Sync(), print)


def test_a_socket_that_keeps_a_policy_is_not_put_into_a_class_that_does_not(pair):
    """rehouse refuses, and the connection is as it was."""
    client, connection = pair("refuse")
    with pytest.raises(StateError, match="urgent='refuse'"):
        connection.rehouse(socket.socket)
    client.say(b"x")
    assert connection.recv() == b"x"


def test_building_a_policy_opens_nothing():
    """A transport with a policy is a value like any other."""
    before = os.listdir("/proc/self/fd")
    assert TCP(urgent="deliver") == TCP(urgent="deliver") != TCP()
    assert os.listdir("/proc/self/fd") == before
