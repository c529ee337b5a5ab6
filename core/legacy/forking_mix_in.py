"""A child process for each request, as a mix-in."""

from __future__ import annotations

import os
import select
import sys
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ForkingMixIn"]


class ForkingMixIn:
    """Serves each request in a forked child.  Comes before the server class: ``class S(ForkingMixIn, TCPServer)``.

    Only its own children are waited for, each by its number, so that other children of the program keep their exit
    status; what a child has printed is flushed before it ends.
    """

    timeout: Any = 300
    #: The numbers of the children at work; ``None`` before the first.
    active_children: Any = None
    #: Most children at once; a further request waits for one to end.
    max_children = 40
    #: Whether ``server_close`` waits for the children.
    block_on_close = True

    def collect_children(self: Any, *, blocking: bool = False) -> None:
        """Forget the children that have ended; wait while there are too many, or, ``blocking``, for all of them."""
        if self.active_children is None:
            return
        while len(self.active_children) >= self.max_children:
            _wait_for_one(self.active_children)
        if blocking:
            _forget_ended(self.active_children, 0)
        else:
            _collect(self.active_children)

    def handle_timeout(self: Any) -> None:
        """``handle_request`` waited in vain: a moment to collect the children."""
        self.collect_children()

    def service_actions(self: Any) -> None:
        """Collect the children."""
        self.collect_children()

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        """Fork a child that serves the request; here it is only closed."""
        _flush()  # or the child would print it again
        pid = os.fork()
        if pid == 0:
            _serve_and_exit(self, request, client_address)
        if self.active_children is None:
            self.active_children = set()
        self.active_children.add(pid)
        self.close_request(request)

    def server_close(self: Any) -> None:
        """Close the server, then collect its children."""
        super().server_close()  # type: ignore[misc]  # the class that it is mixed with has it
        self.collect_children(blocking=self.block_on_close)


def _serve_and_exit(server: Any, request: Any, client_address: Any) -> None:
    status = 1
    try:
        server.finish_request(request, client_address)
        status = 0
    except Exception:
        server.handle_error(request, client_address)
    finally:
        try:
            server.shutdown_request(request)
        finally:
            _flush()
            os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def _collect(children: set[int]) -> None:
    """Forget those of ``children`` that have ended; where none has, by one system call instead of one for each."""
    while children:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except (AttributeError, OSError):  # not on this platform; or the program has no child: somebody waited for ours
            break
        if ended is None:
            return
        if ended.si_pid not in children or not _has_ended(ended.si_pid, os.WNOHANG):
            break  # another child of the program, which hides those behind it
        children.discard(ended.si_pid)
    _forget_ended(children, os.WNOHANG)


def _forget_ended(children: set[int], options: int) -> None:
    for pid in children.copy():
        if _has_ended(pid, options):
            children.discard(pid)


def _has_ended(pid: int, options: int) -> bool:
    try:
        ended, _ = os.waitpid(pid, options)
    except ChildProcessError:
        return True  # somebody else waited for it
    except OSError:
        return False
    return ended == pid


def _wait_for_one(children: set[int]) -> None:
    """Block until one of ``children`` has ended, and forget it; the program's other children are not touched."""
    while not (ended := {pid for pid in children if _has_ended(pid, os.WNOHANG)}):
        _wait_for_exit(children)
    children -= ended


def _wait_for_exit(children: set[int]) -> None:
    if not hasattr(os, "pidfd_open"):
        sleep(0.01)
        return
    descriptors = []
    try:
        poller = select.poll()
        for pid in children:
            descriptors.append(os.pidfd_open(pid))
            poller.register(descriptors[-1], select.POLLIN)
        poller.poll()
    except OSError:
        sleep(0.01)  # out of descriptors, or one ended just now
    finally:
        for fd in descriptors:
            os.close(fd)
