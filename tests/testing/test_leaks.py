"""What `no_leaks` sees, and what it forgives."""

from __future__ import annotations

import _thread
import os
import re
import socket
import subprocess
import sys
import threading

import pytest

from tricorn.testing import no_leaks

#: Seconds that these tests let things take that will not go away.
SHORT = 0.02


class Holder:
    """Closes its descriptor when it is collected."""

    def __init__(self) -> None:
        self.fd = os.dup(0)
        self.itself: Holder | None = None

    def __del__(self) -> None:
        os.close(self.fd)


def test_nothing() -> None:
    """A block that cleans up raises nothing."""
    with no_leaks(), socket.socket():
        pass


def test_descriptor() -> None:
    """A descriptor is reported with its number and what it points to."""
    with pytest.raises(AssertionError, match=r"left behind: descriptor \d+ -> socket:") as caught, no_leaks(SHORT):
        left = socket.socket()
    assert f"descriptor {left.fileno()} ->" in str(caught.value)
    left.close()


def test_descriptor_in_the_place_of_another() -> None:
    """A descriptor that got the number of a closed one is reported."""
    first, second = os.pipe()
    with pytest.raises(AssertionError, match=f"descriptor {first} -> "), no_leaks(SHORT):
        os.close(first)
        assert os.open("/dev/zero", os.O_RDONLY) == first
    os.close(first)
    os.close(second)


def test_thread() -> None:
    """A thread is reported by its name."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    with pytest.raises(AssertionError, match="left behind: thread <Thread.forgotten"), no_leaks(SHORT):
        thread.start()
    end.set()
    thread.join()


def test_thread_without_an_object() -> None:
    """A thread that was not made by `threading` is reported."""
    started, end = threading.Event(), threading.Event()

    def stay() -> None:
        started.set()
        end.wait()

    with pytest.raises(AssertionError, match="a thread not made by threading"), no_leaks(SHORT):
        _thread.start_new_thread(stay, ())
        started.wait()
    end.set()


def test_child() -> None:
    """A child is reported by its number and command, and its exit status is left for who wants it."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(7)"]
    with pytest.raises(AssertionError, match="left behind: .*child process") as caught, no_leaks(SHORT):
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert f"child process {child.pid} ({command[0]} -c" in str(caught.value)
    child.communicate()
    assert child.returncode == 7


def test_zombie() -> None:
    """A child that has ended and that nobody waited for is reported."""
    with pytest.raises(AssertionError, match="child process") as caught, no_leaks(SHORT):
        child = os.fork()
        if child == 0:
            os._exit(3)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert f"child process {child} (a zombie)" in str(caught.value)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_what_was_there() -> None:
    """What was there before is not reported, nor that it went away."""
    before = socket.socket()
    with no_leaks(), before:
        pass


def test_on_its_way_out() -> None:
    """A thread that ends after the block is waited for."""
    end = threading.Event()
    with no_leaks():
        threading.Thread(target=lambda: end.wait(10)).start()
        threading.Thread(target=end.set).start()


def test_garbage() -> None:
    """What only a reference cycle keeps open is collected, and is no leak."""
    with no_leaks():
        holder = Holder()
        holder.itself = holder
        del holder


def test_exception_first() -> None:
    """An exception of the block itself is not covered by what it leaves behind."""
    with pytest.raises(ZeroDivisionError), no_leaks(SHORT):
        left = os.dup(0)
        raise ZeroDivisionError
    os.close(left)


def test_several() -> None:
    """Everything that is left is named at once."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    with pytest.raises(AssertionError) as caught, no_leaks(SHORT):
        thread.start()
        left = os.dup(0)
    assert re.search("thread .*; descriptor ", str(caught.value))
    end.set()
    thread.join()
    os.close(left)
