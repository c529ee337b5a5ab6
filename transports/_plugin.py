"""The transports that come with Tricorn, offered the way everybody's are."""

from __future__ import annotations

from collections.abc import Iterator

from tricorn.hookspecs import hookimpl
from tricorn.locations import HOST_AND_PORT, NOWHERE, PATH
from tricorn.parts import TransportPart

__all__ = ["tricorn_transports"]


@hookimpl
def tricorn_transports() -> Iterator[TransportPart]:
    """TCP, UDP, both kinds of Unix socket, and memory."""
    yield TransportPart("tcp", "tricorn.transports.tcp:TCP", HOST_AND_PORT)
    yield TransportPart("udp", "tricorn.transports.udp:UDP", HOST_AND_PORT)
    yield TransportPart("unix", "tricorn.transports.unix_stream:UnixStream", PATH)
    yield TransportPart("unixgram", "tricorn.transports.unix_datagram:UnixDatagram", PATH)
    yield TransportPart("memory", "tricorn.transports.memory:Memory", NOWHERE)
