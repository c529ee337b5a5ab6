"""Replies when there is no room for them."""

from __future__ import annotations

import errno
import socket

import pytest

from tricorn.datagram import Datagram


class Crowded:
    """A socket that has no room for the first packets; otherwise a real one."""

    def __init__(self, real, refusals):
        self.real = real
        self.refusals = refusals

    def fileno(self):
        """The real descriptor, which counts as writable."""
        return self.real.fileno()

    def sendto(self, data, peer):
        """Raises BlockingIOError while it is crowded."""
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "no room")
        return self.real.sendto(data, peer)

    def sendmsg(self, parts, control, flags, peer):
        """The same for the other call."""
        return self.sendto(b"".join(parts), peer)


@pytest.fixture
def pair():
    """A socket to send from, and one that receives."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.bind(("127.0.0.1", 0))
        client.settimeout(10)
        yield server, client


@pytest.mark.parametrize("refusals", [1, 2, 5])
def test_reply_waits_for_room(pair, refusals):
    """A full buffer makes reply wait and try again, instead of raising BlockingIOError."""
    server, client = pair
    packet = Datagram(b"", client.getsockname(), Crowded(server, refusals))
    assert packet.reply(b"patience") == 8
    assert client.recv(100) == b"patience"
    assert packet.fault is None


def test_reply_by_way_of_control_messages_waits_for_room(pair):
    """The same where control messages say which address the reply leaves from."""
    server, client = pair
    packet = Datagram(b"", client.getsockname(), Crowded(server, 2), control=((0, 0, b""),))
    assert packet.reply(memoryview(b"patience")) == 8
    assert client.recv(100) == b"patience"


def test_reply_does_not_wait_for_ever(pair, monkeypatch):
    """When there is no room in time reply raises TimeoutError, noted as the packet's fault."""
    monkeypatch.setattr("tricorn.datagram.REPLY_WAIT_S", 0.02)
    server, client = pair
    packet = Datagram(b"", client.getsockname(), Crowded(server, 10**9))
    with pytest.raises(TimeoutError, match="no room") as caught:
        packet.reply(b"patience")
    assert packet.fault is caught.value


def test_error_after_waiting_is_noted(pair):
    """An error that comes after a wait is the packet's fault as well."""
    server, client = pair
    packet = Datagram(b"", client.getsockname(), Crowded(server, 1))
    with pytest.raises(OSError, match=r".") as caught:
        packet.reply(bytes(70000))
    assert caught.value.errno == errno.EMSGSIZE
    assert packet.fault is caught.value


def test_sender_without_a_name_gets_nothing():
    """Without a peer there is nobody to reply to: 0 bytes, and no error."""
    assert Datagram(b"x", None, None).reply(b"y") == 0
