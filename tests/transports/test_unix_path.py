"""The file of a Unix socket: its mode, its owner, its end.  The same for both transports."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
LINUX = sys.platform == "linux"
NOBODY = 65534


@pytest.fixture
def umask():
    """Sets the umask until the test is over."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_file_is_there_while_listening_and_gone_after(loopback, transport, folder, connected):
    """The socket file exists as long as the listener, with nothing else beside it, and a str path is the address."""
    path = str(folder / "app.sock")
    listener = loopback.listen(transport(path))
    assert listener.address == path
    assert os.listdir(folder) == ["app.sock"]
    assert listener._socket.getsockname() == path
    connected(transport, path).close()
    listener.close()
    assert os.listdir(folder) == []
    assert listener.fileno() == -1


def test_pathlike_is_a_path(loopback, transport, folder):
    """An os.PathLike equals its text."""
    assert transport(folder / "s") == transport(str(folder / "s"))
    assert loopback.listen(transport(Path(folder / "s"))).address == str(folder / "s")


def test_listening_socket_is_non_blocking_and_closed_on_exec(loopback, transport, folder):
    """As every listening socket is."""
    listener = loopback.listen(transport(folder / "s"))
    assert not os.get_blocking(listener.fileno())
    assert not os.get_inheritable(listener.fileno())
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o000])
def test_mode_is_what_was_asked_for_whatever_the_umask_is(loopback, transport, folder, umask, mode, mask, mode_of):
    """The permission bits are exactly ``mode``, and the umask stays as it is."""
    umask(mask)
    loopback.listen(transport(folder / "s", mode=mode))
    assert mode_of(folder / "s") == mode
    assert umask(0o022) == mask


@pytest.mark.skipif(not LINUX, reason="elsewhere a socket has no mode before it is bound")
@pytest.mark.parametrize(("mode", "first"), [(0o600, 0o600), (0o660, 0o000), (0o666, 0o000)])
def test_nobody_can_connect_before_the_mode_is_right(
    loopback, transport, folder, umask, monkeypatch, mode, first, mode_of
):
    """From the first instant the file has its mode, or, where the umask would spoil it, none at all until it has it."""
    umask(0o000)
    seen = []
    real = socket.socket

    class Watched(real):
        def bind(self, address):
            super().bind(address)
            seen.append(mode_of(address))

        def listen(self, backlog):
            seen.append(mode_of(folder / "s"))
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Watched)
    loopback.listen(transport(folder / "s", mode=mode))
    assert seen[0] == first
    assert set(seen[1:]) <= {mode}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_file_is_given_to_user_and_group_before_anybody_can_connect(loopback, transport, folder, monkeypatch, mode_of):
    """The file has its owner before it has a mode by which others could connect."""
    modes = []
    real = os.chown

    def chown(path, *args, **options):
        modes.append(mode_of(path))
        real(path, *args, **options)

    monkeypatch.setattr(os, "chown", chown)
    loopback.listen(transport(folder / "s", mode=0o660, user=NOBODY, group=NOBODY))
    entry = os.lstat(folder / "s")
    assert (entry.st_uid, entry.st_gid, mode_of(folder / "s")) == (NOBODY, NOBODY, 0o660)
    assert modes == [0o000 if LINUX else modes[0]]


def test_user_and_group_by_name(loopback, transport, folder):
    """Names are looked up when listening, not before."""
    grp, pwd = pytest.importorskip("grp"), pytest.importorskip("pwd")
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    loopback.listen(transport(folder / "s", user=user, group=group))
    entry = os.lstat(folder / "s")
    assert (entry.st_uid, entry.st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize("option", ["user", "group"])
def test_unknown_user_or_group_is_a_listen_error(transport, folder, option, open_descriptors, refused):
    """A name that the machine does not know is said, and nothing is left behind."""
    before = open_descriptors()
    error = refused(transport, folder / "s", **{option: "no-such-name"})
    assert "no-such-name" in str(error)
    assert os.listdir(folder) == []
    assert open_descriptors() == before


def test_failure_after_the_bind_leaves_neither_file_nor_descriptor(
    transport, folder, monkeypatch, open_descriptors, refused
):
    """If the owner cannot be changed the file that was made goes again, and the lock file with it."""

    def chown(*args, **options):
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "chown", chown)
    before = open_descriptors()
    assert refused(transport, folder / "s", user=NOBODY).errno == errno.EPERM
    assert os.listdir(folder) == []
    assert open_descriptors() == before


def test_file_of_another_server_stays_at_close(loopback, transport, folder, connected):
    """If the path leads to another socket by then, close leaves it."""
    path = str(folder / "s")
    first = loopback.listen(transport(path))
    os.unlink(path)
    second = loopback.listen(transport(path))
    first.close()
    assert os.listdir(folder) == ["s"]
    connected(transport, path).close()
    second.close()
    assert os.listdir(folder) == []


def test_close_is_content_if_the_file_is_gone(loopback, transport, folder):
    """Neither a file nor a folder that is gone is an error at close."""
    (folder / "sub").mkdir()
    listener = loopback.listen(transport(folder / "sub" / "s"))
    os.unlink(folder / "sub" / "s")
    (folder / "sub").rmdir()
    listener.close()


def test_forked_child_removes_nothing(loopback, transport, folder, in_child, connected):
    """Neither disown nor close in a child that is not the owner takes the parent's file away."""
    path = str(folder / "s")
    listener = loopback.listen(transport(path))
    assert in_child(lambda: (listener.disown(), os.path.exists(path))[1])
    assert in_child(lambda: (listener.close(), os.path.exists(path))[1])
    connected(transport, path).close()
    assert os.listdir(folder) == ["s"]


def test_child_that_adopts_removes_the_file(loopback, transport, folder, in_child):
    """After adopt the file is the child's to remove, and no longer there for the parent, who does not mind."""
    path = str(folder / "s")
    listener = loopback.listen(transport(path))
    assert in_child(lambda: (listener.adopt(), listener.close(), not os.path.exists(path))[2])
    listener.close()
    assert os.listdir(folder) == []


def test_disown_leaves_the_file(loopback, transport, folder):
    """The process that disowns closes its copy only."""
    listener = loopback.listen(transport(folder / "s"))
    listener.disown()
    assert listener.fileno() == -1
    assert os.listdir(folder) == ["s"]
