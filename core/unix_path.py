"""The file of a Unix socket: made without a race, taken over only when nobody answers, removed if it is ours.

Every start, and every removal, happens under flock(2) on ``<path>.lock``, which is gone again when it is over.  Under
the lock:

1.  what is there already is looked at: a socket that nobody holds is stale and is removed; a live one, and anything
    that is no socket, stays, and is the end of it;
2.  the socket is bound, with permissions that let nobody connect yet, gets its owner, and then its mode;
3.  a stream socket listens, and not before.

So there is no moment at which the wrong people could connect.  The umask, which belongs to the whole process, is not
touched.

It binds to the path itself, not to a temporary name that is renamed afterwards: the kernel tells the name that was
bound to everybody who asks (getsockname, getpeername, recvfrom), and a client that sends its next packet to where a
reply came from would send it to a name that is gone.  Nor can a rename tell what it replaces; bind(2) replaces nothing.

Source: unix(7), flock(2), bind(2), connect(2).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from attrs import define, field

from tricorn.checks import refuse_option
from tricorn.errors import ListenError
from tricorn.listening import listening_errors
from tricorn.path_lock import PathLock

if sys.platform != "win32":
    import grp
    import pwd

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["MAX_PATH", "SocketFile", "UnixPlace", "check_mode", "check_owner", "check_path", "path_text"]

#: Bytes of the longest path that fits into ``sun_path`` with the NUL behind it; the same for an abstract name's bytes.
MAX_PATH = 107 if sys.platform == "linux" else 103

_DEFAULT_MODE = 0o600
_MAX_ID = 2**32 - 2  # chown(2): the one above means "leave it"


def path_text(path: object) -> object:
    """An attrs converter: ``os.PathLike`` becomes text, and the NUL of an abstract name becomes ``@``."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if isinstance(text, str) and text.startswith("\0"):
        return "@" + text[1:]
    return text


def check_path(owner: Any, option: Attribute[Any], path: object) -> None:
    """attrs validator: a path, or ``@name`` where there are abstract names (``./@name`` is a file)."""
    if not hasattr(socket, "AF_UNIX"):
        refuse_option(owner, option.name, path, "on another platform: this one has no Unix sockets")
    if not isinstance(path, str) or path in ("", "@") or "\0" in path or not _is_encodable(path):
        refuse_option(owner, option.name, path, "a path (str or os.PathLike), or an abstract name that begins with @")
    elif path.startswith("@") and sys.platform != "linux":
        refuse_option(owner, option.name, path, "a path: only Linux has abstract names")


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def check_mode(owner: Any, option: Attribute[Any], mode: object) -> None:
    """attrs validator: permission bits, and the default for an abstract name, which has none."""
    allowed = "permission bits from 0 to 0o777, such as 0o660"
    if not isinstance(mode, int) or isinstance(mode, bool):
        refuse_option(owner, option.name, mode, allowed)
    if not 0 <= mode <= 0o777:
        refuse_option(owner, option.name, mode, f"{allowed}; {mode} is {mode:#o}")
    if mode != _DEFAULT_MODE and str(owner.path).startswith("@"):
        refuse_option(owner, option.name, mode, "left out: an abstract name has no permissions")


def check_owner(owner: Any, option: Attribute[Any], who: object) -> None:
    """attrs validator: a name, a number, or ``None``; and ``None`` for an abstract name, which has no owner."""
    if who is None:
        return
    if isinstance(who, bool) or not isinstance(who, int | str) or who == "":
        refuse_option(owner, option.name, who, f"a {option.name}'s name or number, or None to leave it")
    if isinstance(who, int) and not 0 <= who <= _MAX_ID:
        refuse_option(owner, option.name, who, f"a number from 0 to {_MAX_ID}")
    if str(owner.path).startswith("@"):
        refuse_option(owner, option.name, who, "None: an abstract name has no owner")


@define(eq=False)
class SocketFile:
    """The file of a bound socket, and whose duty it is to remove it.  Used by the thread that serves."""

    _path: str
    _device: int
    _inode: int
    #: The process that removes it; a forked child does not, until it adopts it.
    _duty: int = field(factory=os.getpid)

    def adopt(self) -> None:
        """This process removes it from now on."""
        self._duty = os.getpid()

    def remove(self) -> None:
        """Unlink it if it is still the file that was bound, and this process's duty.

        To be called before the socket is closed: only so long does the inode's number belong to no other file.
        Waits for the lock (`tricorn.path_lock.LOCK_WAIT_S`).  Where the folder cannot be written any more (privileges
        were dropped) the file stays, and the next start takes it for stale.
        """
        if self._duty != os.getpid():
            return
        self._duty = 0
        with suppress(OSError), PathLock(self._path):
            self.unlink()

    def unlink(self) -> None:
        """Unlink it if it is still the same file.  The caller has the lock."""
        with suppress(FileNotFoundError):
            there = os.lstat(self._path)
            if (there.st_dev, there.st_ino) == (self._device, self._inode):
                os.unlink(self._path)


@define(eq=False)
class UnixPlace:
    """Where and how a Unix socket is to be bound."""

    path: str
    mode: int = _DEFAULT_MODE
    user: str | int | None = None
    group: str | int | None = None

    def bind(self, kind: socket.SocketKind, backlog: int | None = None) -> tuple[socket.socket, SocketFile | None]:
        """A bound socket, non-blocking and close-on-exec, and its file; with ``backlog`` it listens.

        Raises `~tricorn.errors.ListenError` with the path, having left no descriptor and no file.  Waits for the lock,
        no longer than `tricorn.path_lock.LOCK_WAIT_S`.
        """
        with listening_errors("unix", self.path), ExitStack() as undo:
            self._check_length()
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, kind))
            sock.setblocking(False)
            if self.path.startswith("@"):
                sock.bind("\0" + self.path[1:])
                file = None
                _listen(sock, backlog)
            else:
                file = self._bind_file(sock, backlog)
            undo.pop_all()
        return sock, file

    def _check_length(self) -> None:
        size = len(os.fsencode(self.path.removeprefix("@")))
        if size > MAX_PATH:
            raise self._error(errno.ENAMETOOLONG, f"it has {size} bytes, and at most {MAX_PATH} fit into sun_path")

    def _bind_file(self, sock: socket.socket, backlog: int | None) -> SocketFile:
        owner = self._owner()
        path = self.path if os.path.isabs(self.path) else os.path.join(os.getcwd(), self.path)  # chdir may come later
        with PathLock(path), ExitStack() as undo:
            self._make_room(path)
            self._close_to_all(sock)
            sock.bind(self.path)
            entry = os.lstat(path)
            file = SocketFile(path, entry.st_dev, entry.st_ino)
            undo.callback(file.unlink)
            if owner != (-1, -1):
                os.chown(path, *owner, follow_symlinks=False)
            if stat.S_IMODE(entry.st_mode) != self.mode:
                os.chmod(path, self.mode)
            _listen(sock, backlog)
            undo.pop_all()
        return file

    def _close_to_all(self, sock: socket.socket) -> None:
        """The permissions of the file that bind(2) will make, before it exists, so that it never has wider ones.

        Linux takes them from the socket's own inode, less the umask.  Elsewhere a socket has no mode of its own: a
        stream is still closed to all until it listens, a datagram socket has for a moment what the umask leaves.
        """
        private = not self.mode & 0o077 and self.user is None and self.group is None
        with suppress(OSError):
            os.fchmod(sock.fileno(), self.mode if private else 0)

    def _owner(self) -> tuple[int, int]:
        try:
            uid = pwd.getpwnam(self.user).pw_uid if isinstance(self.user, str) else self.user
            gid = grp.getgrnam(self.group).gr_gid if isinstance(self.group, str) else self.group
        except KeyError as error:
            raise self._error(errno.EINVAL, f"this machine knows no such user or group ({error.args[0]})") from error
        return -1 if uid is None else uid, -1 if gid is None else gid

    def _make_room(self, path: str) -> None:
        """Remove a stale socket; raise for anything else that is there."""
        try:
            entry = os.lstat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(entry.st_mode):
            raise self._error(errno.EADDRINUSE, f"{_sort_of(entry.st_mode)} is there, which is not removed")
        try:
            live = _is_live(path)
        except PermissionError as error:
            raise self._error(errno.EACCES, "a socket is there that this user may not connect to") from error
        if live:
            raise self._error(errno.EADDRINUSE, "another program listens there; stop it, or choose another path")
        with suppress(FileNotFoundError):
            os.unlink(path)

    def _error(self, number: int, reason: str) -> ListenError:
        return ListenError(f"cannot listen on unix {self.path}: {reason}", errno=number, address=self.path)


def _listen(sock: socket.socket, backlog: int | None) -> None:
    if backlog is not None:
        sock.listen(backlog)


def _is_live(path: str) -> bool:
    """Whether any socket is bound to the file ``path``.

    Asked with a datagram socket: a stream that is held by somebody answers EPROTOTYPE, also between its bind and its
    listen, and sees nothing of it; a datagram socket that is held lets us connect.  Only ECONNREFUSED means that nobody
    holds it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except PermissionError as error:
            if error.errno == errno.EACCES:
                raise
        except OSError:
            pass
    return True


def _sort_of(mode: int) -> str:
    for test, name in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISFIFO, "a named pipe"),
    ):
        if test(mode):
            return name
    return "a device"
