"""Finding what a piece of code left behind: threads, descriptors, child processes.

Two readings of what the process has, before and after, are compared.  The later one is repeated for a while, since a
thread that was told to end, or a child that is being reaped, is no leak; nothing else here takes time.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

__all__ = ["PATIENCE_S", "Belongings", "LeftBehind", "no_leaks"]

#: Seconds that things on their way out get.
PATIENCE_S = 5.0

_PROC = Path("/proc/self")


class LeftBehind(AssertionError):
    """Something is there that was not there before, and does not go away."""


class Belongings(NamedTuple):
    """What this process has at one moment.  Descriptors and children are read from /proc, and empty elsewhere."""

    threads: frozenset[threading.Thread]
    #: Threads that were not made by `threading`, by their identifiers.
    bare_threads: frozenset[int]
    #: ``(number, what it points to)``.
    descriptors: frozenset[tuple[int, str]]
    children: frozenset[int]

    @classmethod
    def now(cls) -> Belongings:
        """Read them."""
        every = threading.enumerate()
        threads = frozenset(each for each in every if not isinstance(each, threading._DummyThread))
        bare = frozenset(sys._current_frames()) - {each.ident for each in threads}
        return cls(threads, frozenset(bare), _descriptors(), _children())

    def beyond(self, before: Belongings) -> str:
        """In words, what is there and was not there before; empty if there is nothing."""
        threads = sorted(repr(each) for each in self.threads - before.threads)
        bare = [f"<a thread not made by threading, {number}>" for number in self.bare_threads - before.bare_threads]
        found = [
            ("thread", threads + bare),
            ("descriptor", [f"{fd} -> {target}" for fd, target in sorted(self.descriptors - before.descriptors)]),
            ("child process", [f"{pid} ({_command(pid)})" for pid in sorted(self.children - before.children)]),
        ]
        return "; ".join(f"{kind} {', '.join(names)}" for kind, names in found if names)


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    with suppress(OSError):
        for name in os.listdir(_PROC / "fd"):
            with suppress(OSError):  # the one that read the folder is gone by now
                found.add((int(name), os.readlink(_PROC / "fd" / name)))
    return frozenset(found)


def _children() -> frozenset[int]:
    """Running ones and zombies alike.  Without a waitpid, which would take their exit status from whoever wants it."""
    found: set[int] = set()
    with suppress(OSError):
        for task in os.listdir(_PROC / "task"):
            with suppress(OSError):
                found.update(map(int, (_PROC / "task" / task / "children").read_text().split()))
    return frozenset(found)


def _command(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return words[:80] or "a zombie"
    return "gone"


@contextmanager
def no_leaks(patience: float | None = None) -> Iterator[None]:
    """Raise `AssertionError` if the block leaves a thread, a descriptor or a child process behind.

    Waits at most ``patience`` seconds, 5 by default, for what is on its way out.  An exception of the block itself
    goes before.  Not for two threads at once: each would be blamed for what the other has open.  Descriptors and
    children are seen on Linux only, threads everywhere.
    """
    before = Belongings.now()
    yield
    leaked = _outlasting(before, PATIENCE_S if patience is None else patience)
    if leaked:
        raise LeftBehind(f"left behind: {leaked}")


def _outlasting(before: Belongings, patience: float) -> str:
    limit = monotonic() + patience
    pause = 0.0005
    collected = False
    while leaked := Belongings.now().beyond(before):
        if monotonic() >= limit:
            break
        if pause > 0.01 and not collected:  # what only a reference cycle holds is garbage, and no leak
            collected = True
            gc.collect()
        sleep(pause)
        pause = min(2 * pause, 0.05)
    return leaked
