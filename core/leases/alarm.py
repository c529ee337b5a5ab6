"""A descriptor that is readable from a chosen moment on: timerfd_create(2)."""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["Alarm"]

_CLOCK_MONOTONIC = 1
#: TFD_NONBLOCK and TFD_CLOEXEC are O_NONBLOCK and O_CLOEXEC.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
#: ``struct itimerspec``: interval and value, each seconds and nanoseconds.
_TimerSpec = ctypes.c_long * 4


class Alarm:
    """Readable from the moment that `ring_in` said until it is told another; never by itself at first.

    By ctypes, since `os.timerfd_create` came with Python 3.13.  Raises `OSError` where the system has no such thing.
    Every method is safe from any thread, and none blocks.
    """

    __slots__ = ("_fd", "_settime")

    def __init__(self) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        create = getattr(library, "timerfd_create", None)
        if create is None:
            raise OSError(errno.ENOSYS, "this system has no timerfd_create(2), which came with Linux 2.6.25")
        self._settime = library.timerfd_settime
        self._fd: int = create(_CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_create: {os.strerror(number)}")

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._fd

    def ring_in(self, seconds: float | None) -> None:
        """Be readable ``seconds`` from now, at once for 0, and never for ``None``; what was said before is off."""
        if seconds is None:
            spec = _TimerSpec(0, 0, 0, 0)
        else:
            whole, part = divmod(max(1, int(seconds * 1e9)), 1_000_000_000)
            spec = _TimerSpec(0, 0, whole, part)
        if self._fd >= 0 and self._settime(self._fd, 0, ctypes.byref(spec), None):
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_settime: {os.strerror(number)}")

    def close(self) -> None:
        """Give the descriptor back; twice is once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
