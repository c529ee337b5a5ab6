"""One moment by which several steps must be done, on the monotonic clock."""

from __future__ import annotations

from time import monotonic

from attrs import frozen

__all__ = ["Deadline"]


@frozen
class Deadline:
    """A point in time shared by many steps, so that their sum is bounded and not each by itself.

    ``at`` is a reading of `time.monotonic` in seconds, or ``None`` for "never".  Wall-clock jumps do not
    move it.  Safe to share between threads.
    """

    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The moment ``seconds`` from now; ``None`` means never, and nothing negative: it is already over."""
        return cls(None if seconds is None else monotonic() + max(0.0, seconds))

    def remaining(self) -> float | None:
        """Seconds left, never below zero; ``None`` if the deadline never comes."""
        return None if self.at is None else max(0.0, self.at - monotonic())

    @property
    def expired(self) -> bool:
        """True from the moment on."""
        return self.at is not None and monotonic() >= self.at

    def sooner(self, other: Deadline) -> Deadline:
        """Whichever of the two comes first."""
        if self.at is None:
            return other
        return self if other.at is None or self.at <= other.at else other
