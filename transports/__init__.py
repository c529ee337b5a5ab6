"""The transports: where requests come from.

================== ===================================== =======================================
class              a request is                          its address
================== ===================================== =======================================
`TCP`              a connection                          a host and a port, IPv4 and IPv6
`UDP`              a packet                              a host and a port, IPv4 and IPv6
`UnixStream`       a connection                          a path, or an abstract name
`UnixDatagram`     a packet                              a path, or an abstract name
`Inherited`        either, of a socket that was          that of the socket
                   given to this process
`Memory`           a connection inside this process      the object itself
`Table`            a row of a database table             a database and the table's name
`TLS`              a connection of another transport,    that of the other transport
                   encrypted
`ProxyProtocol`    the same, in the name of whom a       that of the other transport
                   proxy tells of
================== ===================================== =======================================

They import the contracts' side of the core only, and never each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tricorn.transports.inherited import Inherited
    from tricorn.transports.memory import Memory
    from tricorn.transports.proxy import ProxyProtocol
    from tricorn.transports.table import Table
    from tricorn.transports.tcp import TCP
    from tricorn.transports.tls import TLS
    from tricorn.transports.udp import UDP
    from tricorn.transports.unix_datagram import UnixDatagram
    from tricorn.transports.unix_stream import UnixStream

__all__ = ["TCP", "TLS", "UDP", "Inherited", "Memory", "ProxyProtocol", "Table", "UnixDatagram", "UnixStream"]

_HOME = {
    "TCP": "tcp",
    "TLS": "tls",
    "UDP": "udp",
    "Inherited": "inherited",
    "Memory": "memory",
    "ProxyProtocol": "proxy",
    "Table": "table",
    "UnixDatagram": "unix_datagram",
    "UnixStream": "unix_stream",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
