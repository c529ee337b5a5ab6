"""Sends back what it gets: for trying a server out, and for measuring one."""

from __future__ import annotations

from typing import Any

from tricorn.contracts import Kind

__all__ = ["echo"]

#: How much of a stream is read at once, in bytes.
CHUNK = 65536


def echo(request: Any) -> None:
    """Send a stream back until its end, or a datagram back once; an item is simply done with.

    Keeps no state: safe in any number of threads.  Blocks while the peer is silent, or does not read; raises what the
    connection's calls raise.  The echo of echo(7), RFC 862.
    """
    if request.kind is Kind.STREAM:
        _echo_stream(request)
    elif request.kind is Kind.DATAGRAM:
        request.reply(request.data)


def _echo_stream(connection: Any) -> None:
    while data := connection.recv(CHUNK):
        connection.send(data)
