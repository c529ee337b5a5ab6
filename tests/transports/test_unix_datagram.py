"""Packets over a Unix socket."""

from __future__ import annotations

import socket
import sys

import pytest

from tricorn.contracts import Kind
from tricorn.errors import ConfigurationError, PeerRefused
from tricorn.transports import UnixDatagram

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
LINUX = sys.platform == "linux"


@pytest.fixture
def listener(loopback, tmp_path):
    """A listener in a folder of its own, for packets up to 8 bytes."""
    return loopback.listen(UnixDatagram(tmp_path / "s", max_packet_size=8))


@pytest.fixture
def client(tmp_path):
    """A client with a name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind(str(tmp_path / "client"))
        yield sock


def test_packet_and_reply(loopback, listener, client):
    """A packet comes with both names; its reply reaches the client, from a name that the client can send to again."""
    assert UnixDatagram.kind is Kind.DATAGRAM
    client.sendto(b"ping", listener.address)
    packet = loopback.accept(listener)
    assert (packet.data, packet.peer, packet.local) == (b"ping", client.getsockname(), listener.address)
    assert packet.reply(b"pong") == 4
    data, server = client.recvfrom(10)
    assert data == b"pong"
    client.sendto(b"again", server)
    assert loopback.accept(listener).data == b"again"


def test_empty_packet_is_delivered(loopback, listener, client):
    """A packet without bytes is a request like any other."""
    client.sendto(b"", listener.address)
    assert loopback.accept(listener).data == b""


def test_client_without_a_name_gets_no_reply(loopback, listener):
    """Its packet has the peer None; reply sends nothing, and that is no error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"ping", listener.address)
        packet = loopback.accept(listener)
    assert packet.peer is None
    assert packet.reply(b"pong") == 0
    assert packet.fault is None


@pytest.mark.skipif(not LINUX, reason="only Linux has abstract names")
def test_client_with_an_abstract_name_gets_a_reply(loopback, listener):
    """An abstract name, such as the kernel makes up for a client, is a name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.bind("")
        client.sendto(b"ping", listener.address)
        packet = loopback.accept(listener)
        assert packet.peer == client.getsockname()
        packet.reply(b"pong")
        assert client.recv(10) == b"pong"


def test_packet_above_the_limit_is_refused(loopback, listener, client):
    """A packet longer than max_packet_size is refused with its sender; one of just that size is served."""
    client.sendto(b"123456789", listener.address)
    client.sendto(b"12345678", listener.address)
    with pytest.raises(PeerRefused, match=r"longer than max_packet_size \(8 bytes\)") as caught:
        loopback.accept(listener)
    assert caught.value.peer == client.getsockname()
    assert loopback.accept(listener).data == b"12345678"


def test_packet_above_the_limit_can_be_delivered_truncated(loopback, tmp_path, client):
    """With deliver_truncated its beginning is delivered, and marked."""
    listener = loopback.listen(UnixDatagram(tmp_path / "s", max_packet_size=8, deliver_truncated=True))
    client.sendto(b"123456789", listener.address)
    packet = loopback.accept(listener)
    assert packet.data == b"12345678"
    assert packet.truncated


def test_reply_waits_for_a_client_that_reads_late(loopback, tmp_path, client, in_thread, monkeypatch):
    """A client's full queue makes reply wait until the client reads, and no packet is lost."""
    monkeypatch.setattr("tricorn.datagram.REPLY_WAIT_S", 30)
    listener = loopback.listen(UnixDatagram(tmp_path / "s"))
    client.sendto(b"ping", listener.address)
    packet = loopback.accept(listener)

    def reply_often():
        for number in range(200):
            packet.reply(b"%d" % number)

    done = in_thread(reply_often)
    assert [client.recv(10) for _ in range(200)] == [b"%d" % number for number in range(200)]
    done()


def test_reply_gives_a_client_up_that_does_not_read(loopback, tmp_path, client, monkeypatch):
    """A client's queue that stays full is a TimeoutError, and holds the server no longer."""
    monkeypatch.setattr("tricorn.datagram.REPLY_WAIT_S", 0.02)
    listener = loopback.listen(UnixDatagram(tmp_path / "s"))
    client.sendto(b"ping", listener.address)
    packet = loopback.accept(listener)

    def flood():
        for _ in range(100_000):
            packet.reply(bytes(10_000))

    with pytest.raises(TimeoutError):
        flood()
    client.sendto(b"next", listener.address)
    assert loopback.accept(listener).data == b"next"


def test_reply_to_a_client_that_is_gone_disturbs_nobody(loopback, listener, client, tmp_path):
    """The reply fails for its own handler, and the next client is served."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "gone"))
        gone.sendto(b"bye", listener.address)
    packet = loopback.accept(listener)
    with pytest.raises(ConnectionRefusedError) as caught:
        packet.reply(b"anybody?")
    assert packet.fault is caught.value
    client.sendto(b"ping", listener.address)
    assert loopback.accept(listener).data == b"ping"


def test_child_accepts_from_the_shared_listener(loopback, listener, client, in_child):
    """A listener that was made before a fork serves in the child."""
    client.sendto(b"ping", listener.address)
    assert in_child(lambda: loopback.accept(listener).reply(b"child") == 5)
    assert client.recv(10) == b"child"


@pytest.mark.parametrize("options", [{"max_packet_size": 0}, {"deliver_truncated": None}])
def test_wrong_option_is_a_configuration_error(options, tmp_path):
    """A value that cannot work is refused when the transport is built, with option and value."""
    ((name, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}.*must be"):
        UnixDatagram(tmp_path / "s", **options)
