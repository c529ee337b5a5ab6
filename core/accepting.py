"""What to do about each error of accept(2): four named sets, one reaction each.

Source: accept(2), "Error handling": errors already pending on the new socket are passed on by accept and are to be
treated like EAGAIN; EMFILE, ENFILE, ENOBUFS and ENOMEM say that this process or machine is out of something.  "Various
Linux kernels can return other errors such as ENOSR, ESOCKTNOSUPPORT, EPROTONOSUPPORT, ETIMEDOUT": none of them is a
reason to end a server either.
"""

from __future__ import annotations

import errno
from enum import Enum

from tricorn.errors import SourceUnavailable

__all__ = ["PAUSE_S", "RETRY_LIMIT", "Reaction", "reaction_to"]

#: Seconds without accepting when the machine is out of something (nginx waits 0.5, HAProxy, ranch and OpenSSH 0.1).
PAUSE_S = 0.1
#: How many errors of the peer's making may follow each other before they are taken for the machine's.
RETRY_LIMIT = 64


class Reaction(Enum):
    """What the intake does next."""

    RETRY = "accept again at once: it was that one peer"
    PAUSE = "stop accepting for a moment: the machine is out of something, or a source is away"
    END = "the listener is closed"
    RAISE = "nothing known: let it be seen"


def _numbers(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_RETRY = _numbers(
    "ECONNABORTED",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "EINTR",
    "ENETDOWN",
    "ENETUNREACH",
    "ENONET",
    "ENOPROTOOPT",
    "EOPNOTSUPP",
    "EPERM",
    "EPROTO",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "ETIMEDOUT",
)
_PAUSE = _numbers("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ENOSR")
_END = _numbers("EBADF", "EINVAL", "ENOTSOCK")


def reaction_to(error: OSError) -> Reaction:
    """Sort one error of ``Listener.accept`` into its set."""
    if isinstance(error, SourceUnavailable):
        return Reaction.PAUSE
    if error.errno in _RETRY:
        return Reaction.RETRY
    if error.errno in _PAUSE:
        return Reaction.PAUSE
    if error.errno in _END:
        return Reaction.END
    return Reaction.RAISE
