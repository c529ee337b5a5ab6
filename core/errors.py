"""Everything Tricorn raises, in one tree.

::

    TricornError
    ├── ConfigurationError(ValueError)       wrong before the start
    │   ├── UnknownPlugin                    no part of that name is installed
    │   ├── PluginConflict                   two distributions claim one name
    │   ├── PluginLoad                       a part could not be loaded, or breaks its contract
    │   └── IncompatibleParts                parts that cannot work together
    ├── StateError(RuntimeError)             Tricorn was misused: serving twice, use after close
    ├── PrivilegeError(PermissionError)      privileges that cannot be given up, or were not
    ├── TransportError
    │   ├── ListenError(OSError)             binding failed; carries errno and the address
    │   ├── HandshakeError                   the peer and we could not agree on how to talk
    │   │   ├── HandshakeTimeout(TimeoutError)      ... in time
    │   │   ├── MalformedHello(ValueError)          bytes that begin no TLS ClientHello
    │   │   └── MalformedHeader(ValueError)         bytes that are no PROXY header
    │   ├── AuthenticationError(PermissionError)    the peer did not show that it may come in
    │   ├── FramingError(ValueError)         bytes that make no message, or a message that cannot be framed
    │   ├── ConnectionLost(ConnectionError)  the conversation ended before it was over
    │   ├── SourceUnavailable(OSError)       what stands behind a listener (a database) is not there just now
    │   ├── LeaseLost(TimeoutError)          an item was held for longer than its lease
    │   └── PeerRefused                      a listener took something in and turned it away
    ├── Overloaded                           no capacity for this request
    ├── NoRoute(LookupError)                 nobody said which dispatcher is to serve this request
    ├── DrainTimeout(TimeoutError)           work was left when the drain deadline passed
    ├── WorkerLost                           a worker process died under its jobs
    └── RemoteError                          an error of another process, as text

Each is also the builtin that a caller would catch already.  A handler's own exception is never wrapped.
"""

from __future__ import annotations

import errno as _errno

__all__ = [
    "AuthenticationError",
    "ConfigurationError",
    "ConnectionLost",
    "DrainTimeout",
    "FramingError",
    "HandshakeError",
    "HandshakeTimeout",
    "IncompatibleParts",
    "LeaseLost",
    "ListenError",
    "MalformedHeader",
    "MalformedHello",
    "NoRoute",
    "Overloaded",
    "PeerRefused",
    "PluginConflict",
    "PluginLoad",
    "PrivilegeError",
    "RemoteError",
    "SourceUnavailable",
    "StateError",
    "TransportError",
    "TricornError",
    "UnknownPlugin",
    "WorkerLost",
]


class TricornError(Exception):
    """The root: catches everything that Tricorn itself raises."""


class ConfigurationError(TricornError, ValueError):
    """What was asked for cannot work; found before anything was opened."""


class UnknownPlugin(ConfigurationError):
    """No installed distribution offers a part of that name."""


class PluginConflict(ConfigurationError):
    """Two distributions offer a part of the same kind under one name."""


class PluginLoad(ConfigurationError):
    """A part was found, but could not be loaded or does not keep its contract."""


class IncompatibleParts(ConfigurationError):
    """Each part is right by itself; together they cannot serve."""


class StateError(TricornError, RuntimeError):
    """A call that makes no sense in the state the server is in."""


class PrivilegeError(TricornError, PermissionError):
    """This process may not become the user that was asked for, or could become root again afterwards."""


class TransportError(TricornError):
    """Something between the peer and us."""


class ListenError(TransportError, OSError):
    """An address could not be listened on.

    ``errno`` is the kernel's (or ``None`` where the kernel was never asked), ``address`` what was tried.
    """

    def __init__(self, message: str, *, errno: int | None = None, address: object = None) -> None:
        super().__init__(message)
        self.errno = errno
        self.address = address

    def __str__(self) -> str:
        return str(self.args[0])


class HandshakeError(TransportError):
    """Opening a connection (TLS, a PROXY header) failed; the message says what the peer did wrong."""


class HandshakeTimeout(HandshakeError, TimeoutError):
    """Opening a connection was not over when its deadline passed."""


class MalformedHello(HandshakeError, ValueError):
    """A connection's first bytes are no TLS ClientHello, or one that contradicts itself; the message says where."""


class MalformedHeader(HandshakeError, ValueError):
    """A connection's first bytes are no PROXY header, or one that contradicts itself; the message says where."""


class AuthenticationError(TransportError, PermissionError):
    """Raised by an authenticator for a peer that may not come in; the message is for us, the peer is not told it."""


class FramingError(TransportError, ValueError):
    """Bytes that break the framing: too long a message, a mark that cannot be, an end in the middle.

    Also a reply that the framing cannot carry; that is the handler's mistake.
    """


class ConnectionLost(TransportError, ConnectionError):
    """The peer, or the network, ended the conversation before it was over."""


class SourceUnavailable(TransportError, OSError):
    """Raised by ``Listener.accept``: what stands behind the listener is not there just now.

    The intake tells the observers, pauses, and tries again.  ``errno`` is EIO unless something more is known.
    """

    def __init__(self, message: str, *, errno: int = _errno.EIO) -> None:
        super().__init__(errno, message)

    def __str__(self) -> str:
        return str(self.strerror)


class LeaseLost(TransportError, TimeoutError):
    """An item was held for longer than its lease, and may have gone to somebody else."""


class PeerRefused(TransportError):
    """Raised by ``Listener.accept`` when it took something in that must not reach a handler.

    The intake counts it, tells the observers ``reason`` and ``peer``, and goes on.
    """

    def __init__(self, reason: str, peer: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.peer = peer


class Overloaded(TricornError):
    """There is no capacity for this request."""


class NoRoute(TricornError, LookupError):
    """A `~tricorn.strategies.Route` was told a name that none of its dispatchers has, or none in time."""


class DrainTimeout(TricornError, TimeoutError):
    """The drain deadline passed with work still running."""


class WorkerLost(TricornError):
    """A worker process ended while it still had jobs; the message names the signal or exit status."""


class RemoteError(TricornError):
    """An exception that was raised in another process, carried over as text (never as a pickle).

    ``kind`` is the exception's type name, ``text`` its message, ``traceback`` the formatted traceback.
    """

    def __init__(self, kind: str, text: str, traceback: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind
        self.text = text
        self.traceback = traceback
