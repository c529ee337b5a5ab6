"""Network servers by composition: a transport, a dispatcher, a handler.

::

    from tricorn import Server
    from tricorn.transports import TCP
    from tricorn.strategies import ThreadPool

    def shout(connection):
        while line := connection.recv(4096):
            connection.send(line.upper())

    Server(TCP("127.0.0.1", 9999), ThreadPool(workers=16), shout).serve_forever(signals=True)

The words, in the order in which a request meets them: a **transport** is a description of where requests come from;
its **listener** is the live thing; the **intake** takes a **permit**, accepts a **connection**, **datagram** or
**item** from it, and makes it a **job**; the **dispatcher** moves the job to a worker; the **handler** serves it; its
**outcome** is told to the **observers**.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tricorn.admission import Admission, Drop, Reject, ShedOldest, Wait
    from tricorn.connection import Connection
    from tricorn.contracts import Dispatcher, Intake, Item, Job, Kind, Listener, Shape, Transport
    from tricorn.datagram import Datagram
    from tricorn.deadline import Deadline
    from tricorn.deadlines import Deadlines
    from tricorn.errors import (
        AuthenticationError,
        ConfigurationError,
        ConnectionLost,
        DrainTimeout,
        FramingError,
        HandshakeError,
        HandshakeTimeout,
        IncompatibleParts,
        ListenError,
        MalformedHello,
        NoRoute,
        Overloaded,
        PeerRefused,
        PluginConflict,
        PluginLoad,
        RemoteError,
        StateError,
        TransportError,
        TricornError,
        UnknownPlugin,
        WorkerLost,
    )
    from tricorn.events import DrainReport, JobInfo, Outcome, Stage, Status
    from tricorn.hookspecs import hookimpl
    from tricorn.lifecycle import State
    from tricorn.server import Server

_HOME = {
    "admission": "Admission Drop Reject ShedOldest Wait",
    "connection": "Connection",
    "contracts": "Dispatcher Intake Item Job Kind Listener Shape Transport",
    "datagram": "Datagram",
    "deadline": "Deadline",
    "deadlines": "Deadlines",
    "errors": "AuthenticationError ConfigurationError ConnectionLost DrainTimeout FramingError HandshakeError "
    "HandshakeTimeout IncompatibleParts ListenError MalformedHello NoRoute Overloaded PeerRefused PluginConflict "
    "PluginLoad RemoteError StateError TransportError TricornError UnknownPlugin WorkerLost",
    "events": "DrainReport JobInfo Outcome Stage Status",
    "hookspecs": "hookimpl",
    "lifecycle": "State",
    "server": "Server",
}

__all__ = [
    "Admission",
    "AuthenticationError",
    "ConfigurationError",
    "Connection",
    "ConnectionLost",
    "Datagram",
    "Deadline",
    "Deadlines",
    "Dispatcher",
    "DrainReport",
    "DrainTimeout",
    "Drop",
    "FramingError",
    "HandshakeError",
    "HandshakeTimeout",
    "IncompatibleParts",
    "Intake",
    "Item",
    "Job",
    "JobInfo",
    "Kind",
    "ListenError",
    "Listener",
    "MalformedHello",
    "NoRoute",
    "Outcome",
    "Overloaded",
    "PeerRefused",
    "PluginConflict",
    "PluginLoad",
    "Reject",
    "RemoteError",
    "Server",
    "Shape",
    "ShedOldest",
    "Stage",
    "State",
    "StateError",
    "Status",
    "Transport",
    "TransportError",
    "TricornError",
    "UnknownPlugin",
    "Wait",
    "WorkerLost",
    "hookimpl",
]


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: ``import tricorn`` alone costs next to nothing."""
    from importlib import import_module

    for module, names in _HOME.items():
        if name in names.split():
            return getattr(import_module(f"tricorn.{module}"), name)
    raise AttributeError(f"module 'tricorn' has no attribute {name!r}")
