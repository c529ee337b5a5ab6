"""What UnixStream and UnixDatagram do with the file of their socket: the same for both."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tricorn.errors import ConfigurationError, ListenError
from tricorn.path_lock import PathLock
from tricorn.transports import UnixDatagram, UnixStream

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
LINUX = sys.platform == "linux"
NOBODY = 65534


@pytest.fixture(params=[UnixStream, UnixDatagram], ids=["stream", "datagram"])
def transport(request):
    """Both transports, one after the other."""
    return request.param


@pytest.fixture
def folder(tmp_path):
    """A folder that is empty again after the test, but for what the test says it leaves."""
    return tmp_path


@pytest.fixture
def umask():
    """Sets the umask until the test is over."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path):
    """The permission bits of ``path``."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def connected(transport, path):
    """A client's socket that is connected to ``path``."""
    kind = socket.SOCK_STREAM if transport is UnixStream else socket.SOCK_DGRAM
    client = socket.socket(socket.AF_UNIX, kind)
    try:
        client.connect(path)
    except OSError:
        client.close()
        raise
    return client


def leave_stale(path, kind=socket.SOCK_STREAM):
    """A socket file that nobody holds, as a killed server leaves it."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)


def refused(transport, path, **options):
    """The error of listening on ``path``."""
    with pytest.raises(ListenError) as caught:
        transport(path, **options).listen()
    assert caught.value.address == str(path)
    assert str(path) in str(caught.value)
    return caught.value


# -- the file


def test_file_is_there_while_listening_and_gone_after(loopback, transport, folder):
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
def test_mode_is_what_was_asked_for_whatever_the_umask_is(loopback, transport, folder, umask, mode, mask):
    """The permission bits are exactly ``mode``, and the umask stays as it is."""
    umask(mask)
    loopback.listen(transport(folder / "s", mode=mode))
    assert mode_of(folder / "s") == mode
    assert umask(0o022) == mask


@pytest.mark.skipif(not LINUX, reason="elsewhere a socket has no mode before it is bound")
@pytest.mark.parametrize(("mode", "first"), [(0o600, 0o600), (0o660, 0o000), (0o666, 0o000)])
def test_nobody_can_connect_before_the_mode_is_right(loopback, transport, folder, umask, monkeypatch, mode, first):
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
def test_file_is_given_to_user_and_group_before_anybody_can_connect(loopback, transport, folder, monkeypatch):
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
def test_unknown_user_or_group_is_a_listen_error(transport, folder, option, open_descriptors):
    """A name that the machine does not know is said, and nothing is left behind."""
    before = open_descriptors()
    error = refused(transport, folder / "s", **{option: "no-such-name"})
    assert "no-such-name" in str(error)
    assert os.listdir(folder) == []
    assert open_descriptors() == before


def test_failure_after_the_bind_leaves_neither_file_nor_descriptor(transport, folder, monkeypatch, open_descriptors):
    """If the owner cannot be changed the file that was made goes again, and the lock file with it."""

    def chown(*args, **options):
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "chown", chown)
    before = open_descriptors()
    assert refused(transport, folder / "s", user=NOBODY).errno == errno.EPERM
    assert os.listdir(folder) == []
    assert open_descriptors() == before


# -- what is there already


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_stale_file_is_replaced(loopback, transport, folder, kind):
    """A socket file that nobody holds, of whatever kind, gives way."""
    path = str(folder / "s")
    leave_stale(path, kind)
    loopback.listen(transport(path))
    connected(transport, path).close()
    assert os.listdir(folder) == ["s"]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("listening", [True, False])
def test_live_servers_path_is_never_taken(transport, folder, kind, listening, open_descriptors):
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


def test_live_server_does_not_notice_that_it_was_asked(loopback, folder):
    """Finding out that a stream is live puts no connection into its queue."""
    listener = loopback.listen(UnixStream(folder / "s"))
    refused(UnixStream, folder / "s")
    with pytest.raises(BlockingIOError):
        listener.accept()


def make_symlink(path):
    """To a socket that nobody holds."""
    leave_stale(f"{path}.target")
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
def test_what_is_no_socket_is_never_removed(transport, folder, make, named):
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


def test_device_is_named(transport):
    """A device is no socket either."""
    if not os.access("/dev", os.W_OK):
        pytest.skip("the folder of the devices cannot be written")
    assert "a device" in str(refused(transport, "/dev/null"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs two users")
def test_socket_that_may_not_be_asked_is_taken_for_live(transport, folder):
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


# -- bad paths


@pytest.mark.skipif(not LINUX, reason="the limit is Linux's")
def test_longest_path_is_107_bytes(loopback, transport, folder):
    """A path of 107 bytes works, one of 108 is refused with the limit."""
    longest = str(folder / "x")
    longest += "x" * (107 - len(longest))
    loopback.listen(transport(longest))
    connected(transport, longest).close()
    error = refused(transport, longest + "x")
    assert error.errno == errno.ENAMETOOLONG
    assert "108 bytes" in str(error)
    assert "107" in str(error)


def test_missing_folder_is_a_listen_error(transport, folder, open_descriptors):
    """The error says that the folder does not exist."""
    before = open_descriptors()
    error = refused(transport, folder / "missing" / "s")
    assert error.errno == errno.ENOENT
    assert "folder does not exist" in str(error)
    assert open_descriptors() == before


def test_file_in_place_of_a_folder_is_a_listen_error(transport, folder):
    """The error says that a part of the path is a file."""
    (folder / "file").touch()
    assert refused(transport, folder / "file" / "s").errno == errno.ENOTDIR


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs a user without privileges")
def test_folder_without_permission_is_a_listen_error(transport, folder, open_descriptors):
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


# -- abstract names


@pytest.mark.skipif(not LINUX, reason="only Linux has abstract names")
def test_abstract_name(loopback, transport):
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
def test_abstract_name_that_is_too_long(transport):
    """107 bytes after the @ are the limit."""
    for listener in transport("@" + "x" * 107).listen():
        listener.close()
    assert refused(transport, "@" + "x" * 108).errno == errno.ENAMETOOLONG


# -- whose file it is


def test_file_of_another_server_stays_at_close(loopback, transport, folder):
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


def test_forked_child_removes_nothing(loopback, transport, folder, in_child):
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


# -- the lock


def test_of_many_starters_one_wins(transport, folder):
    """Threads that start on one stale path at once: exactly one gets it, the others are told, and nothing is left."""
    path = str(folder / "s")
    for _ in range(25):
        leave_stale(path)
        barrier = threading.Barrier(4)
        won, lost = [], []

        def start(barrier=barrier, won=won, lost=lost):
            barrier.wait()
            try:
                won.extend(transport(path).listen())
            except ListenError as error:
                lost.append(error.errno)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), lost) == (1, [errno.EADDRINUSE] * 3)
        connected(transport, path).close()
        won[0].close()
        assert os.listdir(folder) == []


PROGRAM = """
import sys
from tricorn.errors import ListenError
from tricorn.transports import UnixDatagram, UnixStream

transport = {"UnixStream": UnixStream, "UnixDatagram": UnixDatagram}[sys.argv[1]](sys.argv[2])
while sys.stdin.readline():
    try:
        listeners = transport.listen()
    except ListenError:
        listeners = ()
    print("won" if listeners else "lost", flush=True)
    sys.stdin.readline()
    for listener in listeners:
        listener.close()
    print("closed", flush=True)
"""


def tell(processes):
    """Let every process take its next step; what each answers."""
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in processes]


def test_of_two_processes_one_wins(transport, folder):
    """Processes that start on one stale path at once: exactly one gets it, and its file goes when it closes."""
    path = str(folder / "s")
    command = [sys.executable, "-c", PROGRAM, transport.__name__, path]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for _ in range(25):
            leave_stale(path)
            assert sorted(tell(processes)) == ["lost", "won"]
            connected(transport, path).close()
            assert tell(processes) == ["closed", "closed"]
            assert os.listdir(folder) == []
    finally:
        for process in processes:
            process.communicate(timeout=10)


def test_lock_file_that_is_left_does_not_matter(loopback, transport, folder):
    """A lock file that nobody holds is used, and removed."""
    (folder / "s.lock").touch()
    loopback.listen(transport(folder / "s"))
    assert os.listdir(folder) == ["s"]


def test_lock_file_with_content_is_not_removed(loopback, transport, folder):
    """A file of that name that somebody wrote to is not ours, and stays."""
    (folder / "s.lock").write_text("precious")
    loopback.listen(transport(folder / "s")).close()
    assert (folder / "s.lock").read_text() == "precious"


def test_lock_file_that_is_a_link_is_not_followed(transport, folder):
    """A symbolic link in place of the lock file is an error, and nothing is made where it points."""
    os.symlink(folder / "elsewhere", folder / "s.lock")
    error = refused(transport, folder / "s")
    assert "s.lock is a symbolic link" in str(error)
    assert os.listdir(folder) == ["s.lock"]


def test_lock_that_is_never_given_up_is_a_listen_error(transport, folder, monkeypatch):
    """Who holds the lock for too long is named by the lock's file."""
    monkeypatch.setattr("tricorn.path_lock.LOCK_WAIT_S", 0.02)
    with PathLock(str(folder / "s")):
        error = refused(transport, folder / "s")
    assert error.errno == errno.EADDRINUSE
    assert "s.lock" in str(error)
    assert os.listdir(folder) == []


def test_file_stays_if_the_lock_cannot_be_had_at_close(loopback, transport, folder, monkeypatch):
    """Close gives up in the end, and leaves the file to the next start."""
    monkeypatch.setattr("tricorn.path_lock.LOCK_WAIT_S", 0.02)
    listener = loopback.listen(transport(folder / "s"))
    with PathLock(str(folder / "s")):
        listener.close()
    assert os.listdir(folder) == ["s"]
    loopback.listen(transport(folder / "s"))


def test_lock_of_an_unlinked_file_is_no_lock(folder, monkeypatch):
    """Who gets the lock of a file that was unlinked meanwhile begins again with the one that the name leads to."""
    import fcntl

    path = str(folder / "s")
    real, stolen = fcntl.flock, []

    def flock(fd, operation):
        if not stolen:
            stolen.append(os.fstat(fd).st_ino)
            os.rename(f"{path}.lock", f"{path}.gone")
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with PathLock(path):
        assert os.stat(f"{path}.lock").st_ino != stolen[0]
    assert os.listdir(folder) == ["s.gone"]


def test_lock_file_that_appears_meanwhile_is_waited_for(folder, monkeypatch):
    """If another starter makes the lock file between our look and our try to make it, we try again."""
    path = str(folder / "s")
    real, raced = os.open, []

    def open_racing(name, flags, *mode):
        if flags & os.O_EXCL and not raced:
            raced.append(name)
            Path(name).touch()
        return real(name, flags, *mode)

    monkeypatch.setattr(os, "open", open_racing)
    with PathLock(path):
        assert raced
    assert os.listdir(folder) == []
