"""Paths that a Unix socket cannot have, or not without care.  The same for both transports."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from tricorn.errors import ConfigurationError
from tricorn.transports import UnixStream

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
LINUX = sys.platform == "linux"
NOBODY = 65534


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_stale_file_is_replaced(loopback, transport, folder, kind, connected, leave_stale):
    """A socket file that nobody holds, of whatever kind, gives way."""
    path = str(folder / "s")
    leave_stale(path, kind)
    loopback.listen(transport(path))
    connected(transport, path).close()
    assert os.listdir(folder) == ["s"]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("listening", [True, False])
def test_live_servers_path_is_never_taken(transport, folder, kind, listening, open_descriptors, refused):
    """A path whose socket somebody holds stays, also one that is bound and does not listen yet."""
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX, kind) as live:
        live.bind(path)
        if listening and kind == socket.SOCK_STREAM:
            live.listen()
        before, inode = open_descriptors(), os.lstat(path).st_ino
        for _ in range(20):
            assert refused(transport, path).errno == errno.EADDRINUSE
        assert open_descriptors() == before
        assert os.lstat(path).st_ino == inode
        assert os.listdir(folder) == ["s"]


def test_live_server_does_not_notice_that_it_was_asked(loopback, folder, refused):
    """Finding out that a stream is live puts no connection into its queue."""
    listener = loopback.listen(UnixStream(folder / "s"))
    refused(UnixStream, folder / "s")
    with pytest.raises(BlockingIOError):
        listener.accept()


def make_symlink(path):
    """To a socket that nobody holds."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{path}.target")
    os.symlink(f"{path}.target", path)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda path: path.write_text("precious"), "a regular file"),
        (os.mkdir, "a directory"),
        (os.mkfifo, "a named pipe"),
        (make_symlink, "a symbolic link"),
    ],
)
def test_what_is_no_socket_is_never_removed(transport, folder, make, named, refused):
    """Something else at the path is named in the error, and stays as it is."""
    path = folder / "s"
    make(path)
    before = os.lstat(path)
    error = refused(transport, path)
    assert error.errno == errno.EADDRINUSE
    assert named in str(error)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert not os.path.lexists(f"{path}.lock")


def test_device_is_named(transport, refused):
    """A device is no socket either."""
    if not os.access("/dev", os.W_OK):
        pytest.skip("the folder of the devices cannot be written")
    assert "a device" in str(refused(transport, "/dev/null"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs two users")
def test_socket_that_may_not_be_asked_is_taken_for_live(transport, folder, leave_stale, refused):
    """Without the right to connect nobody can tell whether a socket is stale: it stays."""
    path = folder / "s"
    leave_stale(str(path))
    os.chmod(path, 0o600)
    os.chmod(folder, 0o777)
    for parent in folder.parents[:3]:
        if parent != Path("/tmp"):
            os.chmod(parent, 0o755)
    os.seteuid(NOBODY)
    try:
        error = refused(transport, path)
    finally:
        os.seteuid(0)
    assert error.errno == errno.EACCES
    assert os.listdir(folder) == ["s"]


@pytest.mark.skipif(not LINUX, reason="the limit is Linux's")
def test_longest_path_is_107_bytes(loopback, transport, folder, connected, refused):
    """A path of 107 bytes works, one of 108 is refused with the limit."""
    longest = str(folder / "x")
    longest += "x" * (107 - len(longest))
    loopback.listen(transport(longest))
    connected(transport, longest).close()
    error = refused(transport, longest + "x")
    assert error.errno == errno.ENAMETOOLONG
    assert "108 bytes" in str(error)
    assert "107" in str(error)


def test_missing_folder_is_a_listen_error(transport, folder, open_descriptors, refused):
    """The error says that the folder does not exist."""
    before = open_descriptors()
    error = refused(transport, folder / "missing" / "s")
    assert error.errno == errno.ENOENT
    assert "folder does not exist" in str(error)
    assert open_descriptors() == before


def test_file_in_place_of_a_folder_is_a_listen_error(transport, folder, refused):
    """The error says that a part of the path is a file."""
    (folder / "file").touch()
    assert refused(transport, folder / "file" / "s").errno == errno.ENOTDIR


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs a user without privileges")
def test_folder_without_permission_is_a_listen_error(transport, folder, open_descriptors, refused):
    """The error says that there is no permission, and nothing is left behind."""
    before = open_descriptors()
    os.seteuid(NOBODY)
    try:
        error = refused(transport, folder / "s")
    finally:
        os.seteuid(0)
    assert error.errno == errno.EACCES
    assert "no permission" in str(error)
    assert os.listdir(folder) == []
    assert open_descriptors() == before


def test_relative_path_is_removed_after_a_chdir(loopback, transport, folder, monkeypatch):
    """The file goes although the process works in another folder by then."""
    monkeypatch.chdir(folder)
    listener = loopback.listen(transport("s"))
    assert listener.address == "s"
    monkeypatch.chdir("/")
    listener.close()
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("", {}, "path=''"),
        ("@", {}, "path='@'"),
        ("a\0b", {}, "path="),
        ("\ud800", {}, "path="),
        (b"bytes", {}, "path=b'bytes'"),
        (None, {}, "path=None"),
        ("s", {"mode": "0600"}, "mode='0600'"),
        ("s", {"mode": 600}, "600 is 0o1130"),
        ("s", {"mode": -1}, "mode=-1"),
        ("s", {"mode": True}, "mode=True"),
        ("s", {"user": ""}, "user=''"),
        ("s", {"user": -1}, "user=-1"),
        ("s", {"group": True}, "group=True"),
        ("s", {"group": 1.5}, "group=1.5"),
        ("@name", {"mode": 0o666}, "an abstract name has no permissions"),
        ("@name", {"user": 0}, "an abstract name has no owner"),
    ],
)
def test_wrong_option_is_a_configuration_error(transport, path, options, said):
    """A value that cannot work is refused when the transport is built, with option, value and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        transport(path, **options)
    assert said in str(caught.value)
    assert "must be" in str(caught.value)


def test_platform_without_unix_sockets_is_said(transport, monkeypatch):
    """Where there are no Unix sockets building the transport says so."""
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ConfigurationError, match="no Unix sockets"):
        transport("s")


def test_platform_without_abstract_names_is_said(transport, monkeypatch):
    """Elsewhere than on Linux an abstract name is refused when the transport is built."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigurationError, match="only Linux has abstract names"):
        transport("@name")


@pytest.mark.skipif(not LINUX, reason="only Linux has abstract names")
def test_abstract_name(loopback, transport, connected, refused):
    """A name with @ or NUL in front has no file; taken twice it is in use, and free again after close."""
    name = f"@tricorn-{os.getpid()}-{transport.__name__}"
    assert transport(name) == transport("\0" + name[1:])
    listener = loopback.listen(transport(name))
    assert listener.address == name
    connected(transport, "\0" + name[1:]).close()
    assert refused(transport, name).errno == errno.EADDRINUSE
    listener.adopt()
    listener.close()
    loopback.listen(transport(name)).disown()


@pytest.mark.skipif(not LINUX, reason="only Linux has abstract names")
def test_abstract_name_that_is_too_long(transport, refused):
    """107 bytes after the @ are the limit."""
    for listener in transport("@" + "x" * 107).listen():
        listener.close()
    assert refused(transport, "@" + "x" * 108).errno == errno.ENAMETOOLONG
