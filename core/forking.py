"""Forking with manners: only from a single-threaded process, nothing printed twice or lost, every child its own pidfd.

Sources: fork(2), pidfd_open(2), pidfd_send_signal(2), PR_SET_PDEATHSIG of prctl(2); gh-100228 for why threads matter.
"""

from __future__ import annotations

import _signal
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, Protocol

from attrs import define

from tricorn.errors import ConfigurationError, StateError

__all__ = ["Child", "admit_termination", "check_platform", "fork_child", "refuse_if_threaded", "retire_before_forks"]

# Without the enums of `signal`: in a forked process every function called costs pages, and those took 60 calls.
set_mask: Any = getattr(_signal, "pthread_sigmask", None)
#: SIGCHLD: lest the program's handler reaps a child before we hold it.
_HELD_BACK = tuple(getattr(_signal, name) for name in ("SIGTERM", "SIGCHLD") if hasattr(_signal, name))
_PR_SET_PDEATHSIG = 1
#: Exit status of a child in which our own code failed: EX_SOFTWARE of sysexits.h.
EX_SOFTWARE = 70
#: Seconds for which the kernel may still show a thread that Python has joined already; mostly it is 0.0001.
LEAVING_S = 0.1


def check_platform(what: str) -> None:
    """Raise `~tricorn.errors.ConfigurationError` where there are no processes to fork or no pidfds to hold them by."""
    if not hasattr(os, "fork") or not hasattr(os, "pidfd_open"):
        raise ConfigurationError(
            f"{what} needs fork and pidfds (Linux 5.3 or later); use ThreadPool (thread-pool) here"
        )


def _count_threads() -> int:
    try:
        return os.stat("/proc/self/task").st_nlink - 2  # a folder for each, and two links for itself: proc(5)
    except OSError:
        return threading.active_count()


def _started_threads() -> int:
    """Without dummies, by which `threading` knows threads that others started: they stay in its list when those end."""
    return sum(not isinstance(thread, threading._DummyThread) for thread in threading.enumerate())


class Retiring(Protocol):
    """The owner of a thread of ours that comes and goes."""

    def retire(self) -> None:
        """End the thread now if it has nothing to do."""
        ...


_retiring: list[weakref.ref[Retiring]] = []


def retire_before_forks(owner: Retiring) -> None:
    """Call ``owner.retire()`` before this process is looked at for threads."""
    _retiring.append(weakref.ref(owner, _retiring.remove))


def refuse_if_threaded(what: str) -> None:
    """Raise `~tricorn.errors.StateError` if this process has a second thread.

    A child inherits every lock that another thread happens to hold, and nobody in the child will release it: in
    a test, 17 to 20 of 45 children hung for ever on a lock of the application.
    """
    for each in tuple(_retiring):
        owner = each()
        if owner is not None:
            owner.retire()
    count = _count_threads()
    limit = monotonic() + LEAVING_S
    while count > 1 and _started_threads() == 1 and monotonic() < limit:
        sleep(0.0005)
        count = _count_threads()
    if count > 1:
        names = ", ".join(sorted(thread.name for thread in threading.enumerate()))
        raise StateError(
            f"{what} cannot fork in a program with {count} threads ({names}): a child would inherit locks that nobody "
            "releases. Start this server before any thread, or use ThreadPool (thread-pool)"
        )


@define(eq=False)
class Child:
    """A child process, held by a descriptor that no other process can come to mean."""

    pid: int
    #: Readable once the child has ended.
    pidfd: int

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the child; nothing happens if it has ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except (ProcessLookupError, OSError):
            pass

    def reap(self) -> tuple[int, str]:
        """Take the exit status of an ended child and give its descriptor back.

        Returns the status as `os.waitstatus_to_exitcode` has it, and in words: ``"exited with status 3"``,
        ``"was killed by SIGKILL"``.
        """
        try:
            _, raw = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(raw)
        except ChildProcessError:
            code = 0  # somebody's waitpid(-1) was quicker; that it ended is all there is to know
            words = "ended, and its status was taken by another part of the program"
        else:
            words = f"exited with status {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        os.close(self.pidfd)
        return code, words


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, full, or None


def fork_child(main: Callable[[], int], *, death_signal: signal.Signals) -> Child:
    """Fork; the child runs ``main`` and exits with its result, stdio flushed.  Raises `OSError` if fork(2) fails.

    ``death_signal`` reaches the child when this process dies, by whatever cause.  The child ignores SIGINT, since a
    Ctrl-C goes to the whole group and the parent decides what it means.  SIGTERM is held back in it until ``main`` has
    a handler and calls `admit_termination`; before, it would find the handler of the parent.
    """
    prctl = _load_prctl()  # before the fork: importing in a child costs each one
    parent = os.getpid()
    _flush()  # or the child would print our buffered output once more
    mask = set_mask(_signal.SIG_BLOCK, _HELD_BACK)
    try:
        pid = os.fork()
    except OSError:
        set_mask(_signal.SIG_SETMASK, mask)
        raise
    if pid == 0:
        status = EX_SOFTWARE
        try:
            set_mask(_signal.SIG_SETMASK, {*mask, _signal.SIGTERM})
            _settle_in(parent, death_signal, prctl)
            status = main()
        except BaseException:
            traceback.print_exc()
        finally:
            _flush()
            os._exit(status)
    try:
        return Child(pid, os.pidfd_open(pid))
    except OSError:  # out of descriptors: a child that nobody can hold must not live
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        set_mask(_signal.SIG_SETMASK, mask)


def admit_termination() -> None:
    """In a forked child whose SIGTERM handler is in place: let in what was held back since the fork."""
    set_mask(_signal.SIG_UNBLOCK, (_signal.SIGTERM,))


def _settle_in(parent: int, death_signal: signal.Signals, prctl: Callable[..., int] | None) -> None:
    _signal.set_wakeup_fd(-1)
    if callable(_signal.getsignal(_signal.SIGHUP)):
        _signal.signal(_signal.SIGHUP, _nothing)  # what it means to the parent is the parent's
    _signal.signal(_signal.SIGINT, _nothing)  # a handler, not SIG_IGN, which programs that it starts would inherit
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent:  # it died before prctl could tell us
        os._exit(EX_SOFTWARE)


def _nothing(number: int, frame: object) -> None:
    pass


_prctl: list[Callable[..., int] | None] = []


def _load_prctl() -> Callable[..., int] | None:
    if not _prctl:
        try:
            import ctypes

            _prctl.append(ctypes.CDLL(None, use_errno=True).prctl)
        except (ImportError, OSError, AttributeError):
            _prctl.append(None)
    return _prctl[0]
