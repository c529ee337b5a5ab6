"""A descriptor that is readable once something was written to a file of a folder: inotify(7)."""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["FileWatch"]

_MODIFY, _MOVED_TO, _CREATE, _DELETE = 0x02, 0x80, 0x100, 0x200
#: IN_NONBLOCK and IN_CLOEXEC are O_NONBLOCK and O_CLOEXEC.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_MANY = 65536


class FileWatch:
    """Watches the folder and not the one file, since sqlite makes and deletes files beside its own.

    Raises `OSError` where there is no inotify, or no more of it (EMFILE: fs.inotify.max_user_instances).  What another
    machine writes to a shared folder is not seen.
    """

    __slots__ = ("_fd",)

    def __init__(self, folder: str) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "inotify_init1"):
            raise OSError(errno.ENOSYS, "this system has no inotify(7)")
        self._fd: int = library.inotify_init1(_FLAGS)
        wanted = _MODIFY | _MOVED_TO | _CREATE | _DELETE
        if self._fd < 0 or library.inotify_add_watch(self._fd, os.fsencode(folder), wanted) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, f"inotify: {os.strerror(number)}", folder)

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._fd

    def clear(self) -> bool:
        """Forget what was written so far; True if something was.

        sqlite writes a change into its log, and, perhaps after an fsync(2), into memory that it shares with other
        processes, which see it only then, and of which nothing is told.
        """
        written = False
        try:
            while os.read(self._fd, _MANY):
                written = True
        except OSError:
            pass
        return written

    def heard(self) -> bool:
        """False: there is no other way."""
        return False

    def close(self) -> None:
        """Give the descriptor back; twice is once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
