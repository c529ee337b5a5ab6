"""Peers told apart, and how many requests each has in flight."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from tricorn.connection import Connection
from tricorn.contracts import Kind
from tricorn.datagram import Datagram
from tricorn.peer_counts import PeerCounts, peer_key


def of(peer: Any, kind: Kind = Kind.STREAM) -> Any:
    class Asked:
        def __init__(self) -> None:
            self.peer, self.kind = peer, kind

    return Asked()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("192.0.2.1", 1000), ("192.0.2.1", 2000)),
        (("192.0.2.1", 1), ("::ffff:192.0.2.1", 1, 0, 0)),
        (("::ffff:c000:201", 1, 0, 0), ("::FFFF:192.0.2.1", 1, 0, 0)),
        (("2001:db8:0:1::1", 1, 0, 0), ("2001:db8:0:1:ffff:ffff:ffff:ffff", 1, 0, 0)),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::1", 1, 0, 3)),
    ],
)
def test_the_same_peer(one: Any, other: Any) -> None:
    """However an address is written, and from whichever port, it is one peer; IPv6 goes by the network."""
    assert peer_key(of(one)) == peer_key(of(other)) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("192.0.2.1", 1), ("192.0.2.2", 1)),
        (("2001:db8:0:1::1", 1, 0, 0), ("2001:db8:0:2::1", 1, 0, 0)),
        (("::1", 1, 0, 0), ("127.0.0.1", 1)),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth0", 1, 0, 2)),
        (("::1", 1, 0, 0), ("::ffff:0.0.0.1", 1, 0, 0)),
    ],
)
def test_different_peers(one: Any, other: Any) -> None:
    """Two machines are two peers, also on one link."""
    assert peer_key(of(one)) != peer_key(of(other))


@pytest.mark.parametrize("peer", [None, "", "/run/client", b"\0abstract", 17, ()])
def test_nobody_known(peer: Any) -> None:
    """Where nothing tells peers apart, none is limited for another's sake."""
    assert peer_key(of(peer)) is None
    assert peer_key(of(peer, Kind.ITEM)) is None


def test_a_strange_host() -> None:
    """What is no address is its own peer, and no error."""
    assert peer_key(of(("not:an:address", 1))) == "not:an:address"
    assert peer_key(of(("somewhere", 1))) == "somewhere"


def test_user_of_a_unix_socket() -> None:
    """Over a Unix socket the user counts, as the kernel attests it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_key(Connection(ours, "")) == ("uid", os.getuid())


def test_sender_of_a_packet() -> None:
    """A packet counts for the address that it says it is from."""
    assert peer_key(Datagram(b"", ("192.0.2.1", 5), None)) == bytes([192, 0, 2, 1])


def test_counting() -> None:
    """Each peer has its own number; leaving twice is leaving once; nothing is kept of who has left."""
    counts = PeerCounts(2)
    first, second, third = (of(("192.0.2.1", port)) for port in range(3))
    stranger = of(("192.0.2.2", 1))
    assert [counts.enter(each) for each in (first, second, third, stranger)] == [True, True, False, True]
    counts.leave(third)
    assert not counts.enter(third)
    counts.leave(first)
    counts.leave(first)
    assert counts.enter(third)
    for each in (second, third, stranger):
        counts.leave(each)
    assert len(counts) == 0
