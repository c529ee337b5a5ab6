"""A short mutual exclusion between programs that want the same path, which leaves no file behind."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from time import sleep
from typing import TYPE_CHECKING

from attrs import define, field

from tricorn.deadline import Deadline
from tricorn.errors import ListenError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LOCK_WAIT_S", "PathLock"]

#: Seconds to wait for the lock.  It is held for the moments of a bind or an unlink, never while a server runs.
LOCK_WAIT_S = 5.0

_PAUSE_S = 0.005


@define(eq=False)
class PathLock:
    """``with PathLock(path):`` holds flock(2) on ``<path>.lock``, against other processes and other threads alike.

    The lock file is made when needed and unlinked before the lock is given up.  Whoever then gets the lock of the
    unlinked file notices that the name leads elsewhere, and begins again; so two never hold it at once.  A lock file
    that somebody put content into is not ours to unlink, and stays.

    Raises `OSError` if the file cannot be made or is a symbolic link, and `~tricorn.errors.ListenError` if somebody
    else holds the lock for longer than `LOCK_WAIT_S`.
    """

    _path: str
    _fd: int = field(default=-1, init=False)

    def __enter__(self) -> PathLock:
        deadline = Deadline.after(LOCK_WAIT_S)
        while not self._acquire():
            if deadline.expired:
                raise self._error(errno.EADDRINUSE, f"another program has held {self._name} for {LOCK_WAIT_S:g} s")
            sleep(_PAUSE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            entry = os.fstat(self._fd)
            if stat.S_ISREG(entry.st_mode) and entry.st_size == 0:
                os.unlink(self._name)
        os.close(self._fd)

    @property
    def _name(self) -> str:
        return f"{self._path}.lock"

    def _acquire(self) -> bool:
        self._fd = self._open()
        if self._fd < 0:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current():
                return True
        except BlockingIOError:
            pass
        except BaseException:
            os.close(self._fd)
            raise
        os.close(self._fd)
        return False

    def _open(self) -> int:
        """The lock file's descriptor; -1 if the file came or went meanwhile.

        In two steps, because with O_CREAT open(2) refuses other users' files in sticky folders: proc(5),
        protected_regular.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(self._name, flags)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise self._error(errno.ELOOP, f"the lock file {self._name} is a symbolic link") from error
        try:
            return os.open(self._name, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return -1

    def _error(self, number: int, reason: str) -> ListenError:
        return ListenError(f"cannot listen on unix {self._path}: {reason}", errno=number, address=self._path)

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self._name))
        except FileNotFoundError:
            return False
