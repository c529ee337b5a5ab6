"""How the process ends even where a thread will not."""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["LEAVE_GRACE_S", "bounded", "in_background", "leave_now"]

#: Seconds that the process gets to leave by itself once there is nothing left to do.
LEAVE_GRACE_S = 1.0
#: Seconds that flushing may take: a pipe may be full, and a stuck thread may hold the lock of a file.
FLUSH_S = 0.5


def in_background(call: Callable[..., object], *arguments: Any) -> None:
    """Run ``call`` in a daemon thread.  Takes no lock, unlike `threading.Thread`: we may be in a signal handler."""
    with contextlib.suppress(RuntimeError):  # the interpreter is about to end, or the machine has no thread to give
        _thread.start_new_thread(call, arguments)


def bounded(call: Callable[[], object], seconds: float = FLUSH_S) -> None:
    """Run ``call``, and wait for it ``seconds`` at most."""
    done = threading.Event()

    def run() -> None:
        try:
            call()
        finally:
            done.set()

    in_background(run)
    done.wait(seconds)


def leave_now(status: int, patience: float) -> None:
    """In ``patience`` seconds end the process with ``status``, whatever its threads do; output is flushed before."""
    time.sleep(patience)
    bounded(_flush)
    os._exit(status)


def _flush() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
