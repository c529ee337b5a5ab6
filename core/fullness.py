"""Whether another worker process of the same server has room: one byte of shared memory for each.

A worker that is full must not turn peers away whom its neighbour would serve.
"""

from __future__ import annotations

import mmap

from tricorn.admission import Permits

__all__ = ["Fullness", "ToldPermits"]

_SLOTS = 4096


class Fullness:
    """Made before the workers are forked; each writes its own byte and reads all.  The parent clears those of the dead.

    Workers are numbered; two of 4096 that live at the same time must not share a byte, and so many there are not.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS)

    def tell(self, number: int, *, room: bool) -> None:
        """Worker ``number`` has room, or has none."""
        self._memory[number % _SLOTS] = room

    @property
    def anywhere(self) -> bool:
        """At least one has room."""
        return self._memory.find(b"\1", 0) >= 0


class ToldPermits(Permits):
    """Permits that tell a `Fullness` when there are some again, and, if they are told so, when there are none left."""

    __slots__ = ("_fullness", "_number")

    def __init__(self, capacity: int, fullness: Fullness, number: int) -> None:
        super().__init__(capacity)
        self._fullness, self._number = fullness, number
        fullness.tell(number, room=capacity > 0)

    def filled(self) -> None:
        """The last one was not only taken, to see who is there, but used."""
        self._fullness.tell(self._number, room=False)
        if self._free:  # one came back between the two lines
            self._fullness.tell(self._number, room=True)

    def give(self) -> None:
        """Give one back."""
        super().give()
        self._fullness.tell(self._number, room=True)
