"""What a worker process is doing, written where its parent can read it even after a SIGKILL.

Shared anonymous memory, written by one process and read by its parent::

    counts   how many jobs were opened, and how many ended in each status    9 x u64
    slots    one for each job in flight: number, start, length and text of the peer

and one socket for events, by which the worker tells what the observers want to know.  Nothing is pickled: the peer's
address is JSON, so are the events.
"""

from __future__ import annotations

import json
import mmap
import socket
import struct
from collections import deque
from collections.abc import Mapping
from time import monotonic

from tricorn.events import Event, JobFinished, JobInfo, JobRefused, Outcome, Stage, Status
from tricorn.wire import MAX_PACKET, decode_event, encode_event

__all__ = ["Board"]

_STATUSES = tuple(Status)
_COUNTS = struct.Struct(f"={1 + len(_STATUSES)}Q")
_SLOT = struct.Struct("=QdH")
_SLOT_SIZE = 256
_PEER_MAX = _SLOT_SIZE - _SLOT.size


def _as_address(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Board:
    """One worker's books.  Made by the parent before the fork; `started`, `ended`, `count` and `send` are the worker's,
    the rest the parent's.  The worker's methods are safe from its threads."""

    def __init__(self, number: int, slots: int) -> None:
        self.number = number
        self.pid = 0
        #: Numbers of this worker's jobs begin here, so that they are unique in the whole server.
        self.first_id = number << 40
        self._slots = slots
        self._memory = mmap.mmap(-1, _COUNTS.size + slots * _SLOT_SIZE)
        self._free = deque(range(slots))
        self._held: dict[int, int] = {}
        #: In the parent: how the latest jobs ended that it was told of.
        self.told: dict[int, Status] = {}
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader.setblocking(False)

    # -- the worker's side

    def enter(self) -> None:
        """In the worker, after the fork: drop the parent's end."""
        self._reader.close()

    def started(self, number: int, peer: object, at: float) -> None:
        """A job was accepted.  Beyond ``slots`` jobs it is counted, but not shown."""
        try:
            slot = self._free.pop()
        except IndexError:
            return
        text = json.dumps(peer, default=str).encode("ascii")[:_PEER_MAX]
        offset = _COUNTS.size + slot * _SLOT_SIZE
        start = offset + _SLOT.size
        self._memory[start : start + len(text)] = text
        _SLOT.pack_into(self._memory, offset, number, at, len(text))
        self._held[number] = slot

    def ended(self, number: int) -> None:
        """It has an outcome now."""
        slot = self._held.pop(number, None)
        if slot is not None:
            _SLOT.pack_into(self._memory, _COUNTS.size + slot * _SLOT_SIZE, 0, 0.0, 0)
            self._free.append(slot)

    def count(self, opened: int, counts: Mapping[Status, int]) -> None:
        """The worker's totals so far."""
        _COUNTS.pack_into(self._memory, 0, opened, *(counts[status] for status in _STATUSES))

    def send(self, event: Event) -> None:
        """Tell the parent's observers.  Blocks while the parent is behind; silent once the parent is gone."""
        try:
            self._writer.send(encode_event(event))
        except OSError:
            pass

    # -- the parent's side

    def fileno(self) -> int:
        """Readable while `receive` has events."""
        return self._reader.fileno()

    def receive(self) -> list[Event]:
        """Every event that has arrived."""
        events: list[Event] = []
        while True:
            try:
                packet = self._reader.recv(MAX_PACKET)
            except BlockingIOError:
                return events
            except OSError:
                return events
            try:
                event = decode_event(packet)
            except ValueError:
                continue  # no packet of ours; who supervises lives on
            if isinstance(event, Event) and self._is_sound(event):
                events.append(event)

    def _is_sound(self, event: Event) -> bool:
        """Note how a job ended; False for an event that says nonsense of one."""
        if not isinstance(event, (JobFinished, JobRefused)):
            return True
        outcome: object = event.outcome
        if not (isinstance(outcome, Outcome) and isinstance(outcome.status, Status) and isinstance(outcome.id, int)):
            return False
        self.told[outcome.id] = outcome.status
        while len(self.told) > 2 * self._slots:
            del self.told[next(iter(self.told))]
        return True

    def totals(self) -> tuple[int, dict[Status, int]]:
        """How many jobs the worker opened, and how many ended in each status."""
        opened, *counts = _COUNTS.unpack_from(self._memory, 0)
        return opened, dict(zip(_STATUSES, counts, strict=True))

    def in_flight(self) -> list[JobInfo]:
        """Its jobs without an outcome."""
        now = monotonic()
        found = []
        for slot in range(self._slots):
            offset = _COUNTS.size + slot * _SLOT_SIZE
            number, at, length = _SLOT.unpack_from(self._memory, offset)
            if number:
                start = offset + _SLOT.size
                peer = _read_peer(self._memory[start : start + length])
                found.append(JobInfo(number, peer, now - at, Stage.HANDLER, f"process {self.pid}"))
        return found

    def close(self) -> None:
        """Give memory and sockets back."""
        self._memory.close()
        self._reader.close()
        self._writer.close()


def _read_peer(text: bytes) -> object:
    try:
        return _as_address(json.loads(text))
    except ValueError:  # cut at the slot's end, or caught half-way through being written
        return text.decode("ascii", "replace")
