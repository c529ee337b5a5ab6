"""Starts on one path at the same time.  The same for both Unix transports."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tricorn.errors import ListenError
from tricorn.path_lock import PathLock

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


def test_of_many_starters_one_wins(transport, folder, connected, leave_stale):
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


def test_of_two_processes_one_wins(transport, folder, connected, leave_stale):
    """Processes that start on one stale path at once: exactly one gets it, and its file goes when it closes."""
    path = str(folder / "s")
    command = [sys.executable, "-c", PROGRAM, transport.__name__, path]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
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


def test_lock_file_that_is_a_link_is_not_followed(transport, folder, refused):
    """A symbolic link in place of the lock file is an error, and nothing is made where it points."""
    os.symlink(folder / "elsewhere", folder / "s.lock")
    error = refused(transport, folder / "s")
    assert "s.lock is a symbolic link" in str(error)
    assert os.listdir(folder) == ["s.lock"]


def test_lock_that_is_never_given_up_is_a_listen_error(transport, folder, monkeypatch, refused):
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
