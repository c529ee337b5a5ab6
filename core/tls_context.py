"""The TLS settings of listeners that are live, and how they change while connections are open."""

from __future__ import annotations

import logging
import mmap
import struct
from collections.abc import Callable
from ssl import SSLContext
from time import time_ns

from tricorn.errors import ConfigurationError

__all__ = ["LiveContext"]

_STAMP = struct.Struct("=Q")


class LiveContext:
    """An `ssl.SSLContext` that can be built anew, for this process and those that were forked from it.

    Each process has a context of its own, since private keys are not to be shared.  What is shared is one number, in
    memory: when it changes, each builds its own anew before the next connection.  A connection keeps the context with
    which it was accepted.  Safe from any thread, and in a signal handler: nothing is locked.
    """

    def __init__(self, build: Callable[[], SSLContext]) -> None:
        """``build`` reads files; what it raises comes out here."""
        self._build = build
        self._context = build()
        self._shared = mmap.mmap(-1, _STAMP.size)
        self._followed = 0

    def current(self) -> SSLContext:
        """The context for a new connection.  Reads files only after another process had `reload` called."""
        (stamp,) = _STAMP.unpack_from(self._shared)
        if stamp != self._followed:
            self._follow(stamp)
        return self._context

    def reload(self) -> None:
        """Build it anew, and tell the other processes to.

        Raises what building raises, `ConfigurationError` for files that cannot be used; then nothing has changed.
        """
        self._context = self._build()
        self._followed = time_ns()
        _STAMP.pack_into(self._shared, 0, self._followed)

    def _follow(self, stamp: int) -> None:
        self._followed = stamp
        try:
            self._context = self._build()
        except ConfigurationError as error:  # in the process that was asked they could be used, a moment ago
            logging.getLogger("tricorn").warning("the certificates stay as they were in this process: %s", error)
