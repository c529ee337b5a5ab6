"""Becoming an ordinary user once the sockets are bound, for good.

Source: credentials(7), setgroups(2), setresgid(2), setresuid(2), capabilities(7) ("Effect of user ID changes on
capabilities").  The order matters: who is no longer root may change neither groups nor group.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from attrs import field, frozen

from tricorn.errors import ConfigurationError, IncompatibleParts, PrivilegeError

if sys.platform != "win32":
    import grp
    import pwd

__all__ = ["Identity", "Successor", "find_identity"]

_MAX_ID = 2**32 - 2  # the one above means "leave it"


def _check_names(user: object, group: object) -> None:
    """Raise `~tricorn.errors.ConfigurationError` for values that name nobody; looks nothing up."""
    for what, value in (("user", user), ("group", group)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
            raise ConfigurationError(f"{what} is {value!r}; allowed: a {what}'s name or number, or None")
        if isinstance(value, int) and not 0 <= value <= _MAX_ID:
            raise ConfigurationError(f"{what} is {value}; allowed: a number from 0 to {_MAX_ID}, or a name")
    if group is not None and user is None:
        raise ConfigurationError(
            f"group is {group!r} and user is None; a process that stays root gives nothing up by changing its group: "
            "give a user too"
        )


def _check_socket_files(transports: Iterable[Any]) -> None:
    """Raise `~tricorn.errors.IncompatibleParts` for a socket file that would be root's alone, so that nobody else
    could connect to a server that has stopped being root."""
    for transport in transports:
        below = transport
        while (inner := getattr(below, "inner", None)) is not None:
            below = inner
        path, mode = getattr(below, "path", None), getattr(below, "mode", None)
        if not isinstance(path, str) or path.startswith("@") or not isinstance(mode, int):
            continue
        if below.user is None and below.group is None and not mode & 0o066:
            raise IncompatibleParts(
                f"{path} would belong to root with mode {stat.S_IMODE(mode):#o}, and nobody else could connect once "
                f"the server has given up being root; give {type(below).__name__} a user or a group, or a wider mode"
            )


#: What is imported when it is needed, and could perhaps not be read by another user.
LATER = (
    "alarm_clock", "authentication", "board", "channel_intake", "connection", "datagram", "doorman", "forking",
    "fullness", "messages", "notify", "overload", "parking", "part_books", "pulse", "remote_job", "report",
    "server_process", "signals",
)  # fmt: skip


@frozen
class Successor:
    """Who a server is to be once it is bound, as it was told; ``None`` for whoever it is.

    Raises `~tricorn.errors.ConfigurationError` for what cannot be: a user that is no name and no number, a group alone,
    a socket file of ``transports`` to which nobody but root could connect.  Looks nothing up.
    """

    user: str | int | None
    group: str | int | None
    transports: Iterable[Any] = field(repr=False)

    def __attrs_post_init__(self) -> None:
        _check_names(self.user, self.group)
        if self.user is not None:
            _check_socket_files(self.transports)

    def find(self) -> Identity:
        """`find_identity`; the present one where no other was asked for.  Imports what may be needed later."""
        for module in ("traceback", *(f"tricorn.{each}" for each in LATER)):
            import_module(module)
        return PRESENT if self.user is None else find_identity(self.user, self.group)


@frozen
class Identity:
    """Who a process is to become."""

    user: int
    group: int
    #: Supplementary groups.
    groups: tuple[int, ...]

    def assume(self) -> None:
        """Become it: groups, then group, then user, real, effective and saved ones; all threads of the process.

        Raises `~tricorn.errors.PrivilegeError` if the kernel refuses, or if anything could be regained afterwards; the
        process may be left between the two then, and should end.  Does nothing if the process is that user already.
        """
        if self is PRESENT or self.is_assumed():
            return
        try:
            os.setgroups(self.groups)
            os.setresgid(self.group, self.group, self.group)
            os.setresuid(self.user, self.user, self.user)
        except OSError as error:
            raise PrivilegeError(f"cannot become user {self.user}, group {self.group}: {error.strerror}") from error
        self._verify()

    def is_assumed(self) -> bool:
        """True if real, effective and saved user and group are these."""
        return os.getresuid() == (self.user,) * 3 and os.getresgid() == (self.group,) * 3

    def _verify(self) -> None:
        if not self.is_assumed() or not set(os.getgroups()) <= {*self.groups, self.group}:
            raise PrivilegeError(f"the kernel did not make this process user {self.user}, group {self.group}")
        for regain in (os.setuid, os.seteuid, os.setgid if self.group else None, os.setegid if self.group else None):
            if regain is not None and _succeeds(regain):
                raise PrivilegeError(
                    f"this process became user {self.user}, and could become root again ({regain.__name__}); it has "
                    "capabilities that the change did not take away"
                )


#: Of a server that becomes nobody else.
PRESENT = Identity(-1, -1, ())


def _succeeds(change: Any) -> bool:
    try:
        change(0)
    except PermissionError:
        return False
    return True


def find_identity(user: str | int, group: str | int | None) -> Identity:
    """Look them up: without a ``group`` the user's own, and the supplementary groups of a user that has a name.

    May block for a directory service.  Raises `~tricorn.errors.ConfigurationError` for a user or group that the machine
    does not know, for root itself, and for a bare number without a ``group``; `~tricorn.errors.PrivilegeError` where
    this process is somebody else than root or that user.
    """
    if sys.platform == "win32":
        raise ConfigurationError(f"user is {user!r}; this platform has no users to change to: leave it out")
    entry = _entry(user)
    if group is None and entry is None:
        raise ConfigurationError(f"user is {user!r}, which has no entry and so no group of its own; give a group too")
    number = entry.pw_uid if entry is not None else user
    assert isinstance(number, int)
    if number == 0:
        raise ConfigurationError(f"user is {user!r}, which is root: nothing would be given up; leave it out")
    own = _group(group) if group is not None else entry.pw_gid if entry is not None else 0
    groups = tuple(os.getgrouplist(entry.pw_name, own)) if entry is not None else (own,)
    found = Identity(number, own, groups)
    if os.geteuid() != 0 and not found.is_assumed():
        raise PrivilegeError(
            f"user is {user!r}, and only root can become another user; this process is user {os.geteuid()}: start it "
            "as root, or leave user and group out"
        )
    return found


def _entry(user: str | int) -> Any:
    try:
        return pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except KeyError:
        if isinstance(user, int):
            return None
        raise ConfigurationError(f"user is {user!r}; this machine knows no such user") from None


def _group(group: str | int) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(f"group is {group!r}; this machine knows no such group") from None
