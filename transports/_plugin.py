"""The transports that come with Tricorn, offered the way everybody's are."""

from __future__ import annotations

from collections.abc import Iterator

from tricorn.hookspecs import hookimpl
from tricorn.locations import GIVEN_NAME, HOST_AND_PORT, NOWHERE, PATH
from tricorn.parts import TransportPart, WrapperPart
from tricorn.places import POSTGRESQL_PLACE, SQLITE_PLACE

__all__ = ["tricorn_transports", "tricorn_wrappers"]


@hookimpl
def tricorn_transports() -> Iterator[TransportPart]:
    """TCP, UDP, both kinds of Unix socket, sockets of a service manager, memory, and tables of two databases."""
    yield TransportPart("tcp", "tricorn.transports.tcp:TCP", HOST_AND_PORT)
    yield TransportPart("udp", "tricorn.transports.udp:UDP", HOST_AND_PORT)
    yield TransportPart("unix", "tricorn.transports.unix_stream:UnixStream", PATH)
    yield TransportPart("unixgram", "tricorn.transports.unix_datagram:UnixDatagram", PATH)
    yield TransportPart("inherited", "tricorn.transports.inherited:Inherited", GIVEN_NAME)
    yield TransportPart("memory", "tricorn.transports.memory:Memory", NOWHERE)
    yield TransportPart(
        "table+sqlite", "tricorn.transports.table:Table", SQLITE_PLACE, example="{folder}/jobs.db?table=jobs"
    )
    yield TransportPart("table+postgresql", "tricorn.transports.table:Table", POSTGRESQL_PLACE)


@hookimpl
def tricorn_wrappers() -> Iterator[WrapperPart]:
    """TLS, and the PROXY protocol."""
    yield WrapperPart("tls", "tricorn.transports.tls:TLS", example="certfile=server.pem")
    yield WrapperPart("proxy", "tricorn.transports.proxy:ProxyProtocol", example="trusted=127.0.0.1")
