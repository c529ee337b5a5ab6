"""When to look at whom: an event loop's timers, kept to `SLOT_S`.

Slots of a twentieth of a second, each with the set of those that are looked at in it: entering, moving and leaving are
operations on a set, and who leaves is forgotten at once.  A heap of entries, which cannot be taken out, held thirty
thousand short connections a second until their first deadline, ten seconds later: 300,000 dead objects, and a garbage
collector that stopped the loop for 60 ms to look at them.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

__all__ = ["SLOT_S", "Agenda"]

#: Seconds of a slot; nobody is looked at too early, or more than this too late.
SLOT_S = 0.05


class Agenda:
    """Members have an attribute ``slot``, which is 0 while they are not on it.  Belongs to one thread."""

    __slots__ = ("_order", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, set[Any]] = {}
        #: The slots that there are, as a heap.
        self._order: list[int] = []

    def enter(self, member: Any, at: float) -> None:
        """Look at ``member`` at ``at``, a reading of the loop's clock, unless that is to happen earlier anyway."""
        slot = int(at / SLOT_S) + 1
        if member.slot:
            if member.slot <= slot:
                return
            self._slots[member.slot].discard(member)
        member.slot = slot
        members = self._slots.get(slot)
        if members is None:
            members = self._slots[slot] = set()
            heappush(self._order, slot)
        members.add(member)

    def leave(self, member: Any) -> None:
        """Forget it."""
        if member.slot:
            self._slots[member.slot].discard(member)
            member.slot = 0

    def due(self, now: float) -> list[Any]:
        """Those to be looked at by now, who are not on it any more."""
        found: list[Any] = []
        order = self._order
        while order and (order[0] * SLOT_S <= now or not self._slots[order[0]]):
            found += self._slots.pop(heappop(order))
        for member in found:
            member.slot = 0
        return found

    def pause(self, now: float) -> float | None:
        """Seconds until the next is due; ``None`` if there is none.  Right after `due`, whose gaps are closed."""
        return max(0.0, self._order[0] * SLOT_S - now) if self._order else None
