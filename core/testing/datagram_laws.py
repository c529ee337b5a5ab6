"""The laws of transports that yield datagrams."""

from __future__ import annotations

from typing import Any

from tricorn.testing.bounds import expect
from tricorn.testing.stand import Stand

__all__ = ["LAWS"]

_PEERS = 5


def a_reply_reaches_the_sender(stand: Stand) -> None:
    """each reply reaches the one who sent the packet"""
    with stand.open() as counter:
        clients = {b"%d" % n: counter.client() for n in range(_PEERS)}
        for name, client in clients.items():
            client.send(name)
        for _ in clients:
            datagram = counter.accept()
            expect(datagram.peer is not None, "a datagram does not know its sender")
            datagram.reply(b"you are " + datagram.data)
        for name, client in clients.items():
            heard = client.recv(100)
            expect(heard == b"you are " + name, f"the peer that sent {name!r} got {heard!r}")


def packets_keep_their_edges(stand: Stand) -> None:
    """two packets are two requests, in the order in which they came"""
    with stand.open() as counter:
        client = counter.client()
        client.send(b"one")
        client.send(b"two")
        heard = [counter.accept().data, counter.accept().data]
        expect(heard == [b"one", b"two"], f"two packets became {heard!r}")
        counter.check_idle("after both packets")


def an_empty_packet_is_a_request(stand: Stand) -> None:
    """an empty packet is a request, and an empty reply an answer"""
    with stand.open() as counter:
        client = counter.client()
        client.send(b"")
        datagram = counter.accept()
        expect(datagram.data == b"", f"an empty packet became {datagram.data!r}")
        datagram.reply(b"")
        heard = client.recv(100)
        expect(heard == b"", f"an empty reply became {heard!r}")


def finishing_leaves_the_socket_open(stand: Stand) -> None:
    """finish(), drain(), abort() and disown() of one datagram cost no other"""
    with stand.open() as counter:
        client = counter.client()
        for end in ("drain", "abort", "disown"):
            client.send(end.encode())
            datagram = counter.accept()
            getattr(datagram, end)()
            datagram.finish(None)
        client.send(b"next")
        counter.accept().reply(b"still here")
        heard = client.recv(100)
        expect(heard == b"still here", f"after another datagram was ended the reply was {heard!r}")


LAWS: tuple[Any, ...] = (
    a_reply_reaches_the_sender,
    packets_keep_their_edges,
    an_empty_packet_is_a_request,
    finishing_leaves_the_socket_open,
)
