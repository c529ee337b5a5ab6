"""A source of items for the kit: whatever is put in at one end of a socket pair is an item at the other."""

from __future__ import annotations

import socket
from collections import defaultdict, deque
from contextlib import suppress
from typing import ClassVar

from attrs import define, frozen

from tricorn.contracts import Item, Kind, Listener, Transport
from tricorn.testing import bounds

__all__ = ["Hub", "Items"]

_MOST = 65536


@define(eq=False)
class Note(Item):
    """One packet, leased: a number and the value.  Acknowledging sends a packet back, as an answer does."""

    value: bytes
    number: bytes
    inbox: socket.socket

    def reply(self, data: bytes) -> None:
        """Answer whoever put it in."""
        self.inbox.send(self.number + b" " + data)

    def ack(self) -> None:
        """Say so."""
        self._say(b"ack\n")

    def nack(self, delay: float = 0.0) -> None:
        """Say so.  It is not offered again: the kit looks for one outcome of each."""
        self._say(b"nack\n")

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # at the end of a check nobody listens any more
            self.reply(word)


@define(eq=False)
class NoteListener(Listener):
    """The server's end."""

    kind: ClassVar[Kind] = Kind.ITEM

    inbox: socket.socket
    address: object = "items:"

    def fileno(self) -> int:
        """The descriptor."""
        return self.inbox.fileno()

    def accept(self) -> Note:
        """The next item."""
        number, _, value = self.inbox.recv(_MOST).partition(b" ")
        return Note(value, number, self.inbox)

    def close(self) -> None:
        """Close the server's end."""
        self.inbox.close()


@frozen(eq=False)
class Items(Transport):
    """The transport over an open socket pair's one end, which it copies."""

    kind: ClassVar[Kind] = Kind.ITEM

    inbox: socket.socket

    def listen(self) -> tuple[NoteListener]:
        """One listener."""
        copy = self.inbox.dup()
        copy.setblocking(False)
        return (NoteListener(copy),)


class Hub:
    """The kit's end: puts items in, and sorts the answers by whose item they belong to."""

    def __init__(self) -> None:
        self._outbox, self.inbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._outbox.settimeout(bounds.BOUND_S)
        self._heard: dict[int, deque[bytes]] = defaultdict(deque)

    def put(self, number: int, value: bytes) -> None:
        """Offer an item."""
        self._outbox.send(b"%d %s" % (number, value))

    def hear(self, number: int) -> bytes:
        """The next answer to that item; `TimeoutError` if none comes."""
        while not self._heard[number]:
            whose, _, text = self._outbox.recv(_MOST).partition(b" ")
            self._heard[int(whose)].append(text)
        return self._heard[number].popleft()

    def close(self) -> None:
        """Close both ends."""
        self._outbox.close()
        self.inbox.close()
