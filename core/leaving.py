"""The way out of an intake, by which nobody whom the kernel has let in is lost.

Closing a listener resets what is in its queue.  So first no new peer is let in (`Listener.hold_off`), then everything
that is queued is accepted and served, and then the listener is closed: late clients are refused.  A handshake that was
under way when the door was shut takes a moment to arrive in the queue, so where peers came lately that moment is given.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from tricorn.contracts import Kind, Listener
from tricorn.deadline import Deadline
from tricorn.wakeup import WakeUp

__all__ = ["GRACE_S", "LATELY_S", "Leaving"]

#: Seconds for handshakes under way, about a round trip; not needed where nobody came for `LATELY_S`.
GRACE_S, LATELY_S = 0.03, 1.0
#: Seconds between two looks at conversations that hold a place and may have become idle.
SLICE_S = 0.05
#: Seconds after which it is over whatever the queue holds, where nobody says otherwise.
LIMIT_S = 8.0
#: The same for packets: nothing holds their senders off, so the queue may never be empty.
PACKETS_S = 0.1


class Leaving:
    """One intake's.  `begin` never blocks and takes no lock: it may be called in a signal handler."""

    def __init__(self, listeners: list[Listener]) -> None:
        self._listeners = listeners
        self._over = WakeUp()
        #: When the last request was accepted, by `time.monotonic`.
        self.accepted_at = float("-inf")
        #: True from `begin` on.
        self.begun = False
        #: True in the process that owns the listeners.
        self.owner = True
        #: By when it must be over.
        self.deadline: Deadline | None = None
        #: Called now and then meanwhile: to end conversations that are idle.
        self.hurry: Callable[[], None] = _nothing
        self._leave_at = 0.0

    def begin(self) -> None:
        """Shut the door."""
        if self.begun:
            return
        now = monotonic()
        self._leave_at = now + GRACE_S if now - self.accepted_at < LATELY_S else now
        self.begun = True
        if self.deadline is None:
            self.deadline = Deadline(now + LIMIT_S)
        if all(listener.kind is not Kind.STREAM for listener in tuple(self._listeners)):
            self.deadline = self.deadline.sooner(Deadline(now + PACKETS_S))
        if self.owner:
            for listener in tuple(self._listeners):
                with suppress(OSError, ValueError):
                    listener.hold_off()

    @property
    def is_time(self) -> bool:
        """From now on, an empty queue stays empty."""
        return monotonic() >= self._leave_at

    @property
    def is_overdue(self) -> bool:
        """The deadline has passed."""
        return self.deadline is not None and self.deadline.expired

    @property
    def is_over(self) -> bool:
        """Nobody is queued for whom it would be worth waiting, or there is no time to wait."""
        return self.begun and (self.is_overdue or (self.is_time and not self.anybody_there()))

    def slice(self) -> float:
        """Seconds to wait before the next look."""
        left = self._leave_at - monotonic()
        return min(left, SLICE_S) if left > 0 else SLICE_S

    def anybody_there(self) -> bool:
        """Something is queued that nobody has accepted."""
        kept = [listener for listener in tuple(self._listeners) if listener.kind is not Kind.ITEM]
        descriptors = [fd for fd in (listener.fileno() for listener in kept) if fd >= 0]
        return bool(select.select(descriptors, [], [], 0)[0]) if not hasattr(select, "poll") else _polled(descriptors)

    def fileno(self) -> int:
        """Readable when it is over."""
        return self._over.fileno()

    def end(self) -> None:
        """It is over."""
        self._over.signal()

    def close(self) -> None:
        """Give the descriptors back."""
        self._over.close()


def _nothing() -> None:
    pass


def _polled(descriptors: list[int]) -> bool:
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))
