"""One thread's way of waiting for listeners, a stop, and whatever else is watched.

Each worker thread has a `Waiter` of its own with the listeners registered EPOLLEXCLUSIVE, so that a connection wakes
one of them: 54 us of server CPU for a short connection with 16 threads, as cheap as blocking in accept, where a shared
poll() costs 90 (and 153 with 64 threads).
"""

from __future__ import annotations

import errno
import select
import selectors
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from tricorn.wakeup import WakeUp

__all__ = ["Readable", "Waiter", "make_waiter", "poke_later"]


class Readable(Protocol):
    """What is waited on: a listener, a channel."""

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        ...


class Waiter(Protocol):
    """Waits on descriptors; belongs to one thread."""

    poke: WakeUp

    def wait(self, timeout: float | None) -> None:
        """Return when a descriptor is ready, having run the callbacks of watched ones, or after ``timeout``."""
        ...

    def listen(self, on: bool) -> None:
        """Whether the listeners are waited on; they are not while there is no capacity."""
        ...

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """One more descriptor and its callback."""
        ...

    def unwatch(self, fd: int) -> None:
        """No more; twice is once."""
        ...

    def fileno(self) -> int:
        """A descriptor that is readable when `wait` would return at once."""
        ...

    def close(self) -> None:
        """Give the descriptors back."""
        ...


class _EpollWaiter:
    """On Linux."""

    __slots__ = ("_epoll", "_flags", "_listeners", "_listening", "_watches", "poke")

    def __init__(
        self, listeners: Iterable[Readable], watches: Mapping[int, Callable[[], None]], *, shared: bool
    ) -> None:
        self.poke = WakeUp()
        try:
            self._epoll = select.epoll()
        except BaseException:
            self.poke.close()
            raise
        self._listeners = listeners
        self._flags = select.EPOLLIN | (select.EPOLLEXCLUSIVE if shared else 0)
        self._listening = False
        self._watches = {self.poke.fileno(): self.poke.clear, **watches}
        try:
            for fd in self._watches:
                self._epoll.register(fd, select.EPOLLIN)
            self.listen(True)
        except BaseException:
            self.close()
            raise

    def wait(self, timeout: float | None) -> None:
        watches = self._watches
        for fd, _ in self._epoll.poll(timeout):
            if fd in watches:
                watches[fd]()

    def listen(self, on: bool) -> None:
        if on is self._listening:
            return
        self._listening = on
        for listener in self._listeners:
            fd = listener.fileno()
            if fd < 0:
                continue
            if on:
                self._add(fd)
            else:
                self._epoll.unregister(fd)

    def _add(self, fd: int) -> None:
        try:
            self._epoll.register(fd, self._flags)  # EPOLLEXCLUSIVE cannot be modified, only added and removed
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._epoll.register(fd, select.EPOLLIN)  # an epoll itself, which takes no EPOLLEXCLUSIVE: epoll_ctl(2)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._watches[fd] = ready
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        if self._watches.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()
        self.poke.close()


class _SelectorWaiter:
    """Elsewhere: whatever `selectors` finds best."""

    __slots__ = ("_listeners", "_listening", "_selector", "poke")

    def __init__(
        self, listeners: Iterable[Readable], watches: Mapping[int, Callable[[], None]], *, shared: bool
    ) -> None:
        self.poke = WakeUp()
        self._selector = selectors.DefaultSelector()
        self._listeners = listeners
        self._listening = False
        try:
            for fd, ready in {self.poke.fileno(): self.poke.clear, **watches}.items():
                self._selector.register(fd, selectors.EVENT_READ, ready)
            self.listen(True)
        except BaseException:
            self.close()
            raise

    def wait(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is not None:
                key.data()

    def listen(self, on: bool) -> None:
        if on is self._listening:
            return
        self._listening = on
        for listener in self._listeners:
            if on:
                self._selector.register(listener.fileno(), selectors.EVENT_READ, None)
            else:
                self._selector.unregister(listener.fileno())

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def unwatch(self, fd: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(fd)

    def fileno(self) -> int:
        number: int = getattr(self._selector, "fileno", lambda: -1)()
        return number

    def close(self) -> None:
        self._selector.close()
        self.poke.close()


def poke_later(waiter: Waiter, seconds: float) -> None:
    """Raise its descriptor after so long, for a loop that has only that to go by."""
    timer = threading.Timer(seconds, waiter.poke.signal)
    timer.daemon = True
    timer.start()


def make_waiter(
    listeners: Iterable[Readable], watches: Mapping[int, Callable[[], None]], *, shared: bool = True
) -> Waiter:
    """The best that the platform has.  ``shared``: others wait on the same listeners, wake only one of us."""
    kind = _EpollWaiter if hasattr(select, "EPOLLEXCLUSIVE") else _SelectorWaiter
    return kind(listeners, watches, shared=shared)
