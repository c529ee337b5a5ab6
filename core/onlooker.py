"""A thread of ours that looks at something now and then, until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Onlooker"]


class Onlooker:
    """``run`` is its body: it looks, and waits for ``over`` in between.  A daemon."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._name, self._run = name, run
        #: Set when it is to end.
        self.over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; twice is once.  Where the machine gives no thread, nobody looks."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    def stop(self, patience: float | None = None) -> None:
        """End it, and wait for that, ``patience`` seconds at most; twice is once."""
        self.over.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)
