"""What a job serves: the contract of all requests, and the base of those that come from no socket."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from tricorn.kinds import Kind

if TYPE_CHECKING:
    from tricorn.deadline import Deadline

__all__ = ["Item", "Request"]


class Request(Protocol):
    """What a job needs of the thing that it serves: a connection, a datagram, an item.

    One party owns a request at a time: the intake until the job is handed over, then whoever runs the job.
    `drain` and `abort` are for everybody else, and safe from any thread; they never free the descriptor.
    """

    kind: ClassVar[Kind]

    @property
    def peer(self) -> object:
        """The address of the other side, as the kernel gives it; ``None`` where there is none."""
        ...

    @property
    def local(self) -> object:
        """Our address, as the peer used it where that is known."""
        ...

    @property
    def fault(self) -> BaseException | None:
        """The last error that came from the peer's side, to tell it from the handler's own errors."""
        ...

    def open(self, deadline: Deadline) -> None:
        """Make it ready for the handler, on the worker: handshakes go here.  May block until ``deadline``.

        Not called where the request has an attribute ``needs_opening`` which is false.
        """
        ...

    def finish(self, error: BaseException | None) -> None:
        """The handler is done (``error``: what it raised).  Called exactly once, by the owner; gives all back."""
        ...

    def drain(self) -> None:
        """The server is stopping: end now if idle, else after the present exchange.  Called again and again."""
        ...

    def abort(self) -> None:
        """Cut the conversation off; the owner's blocked calls return or fail."""
        ...

    def disown(self) -> None:
        """Close our copy of the descriptor without a sign to the peer: another process has it now."""
        ...


class Item(ABC):
    """One leased entry of a source that is no socket: a table row, a file, a timer.

    Implement `ack` and `nack`; `value` is what the handler works on.  An item has no peer that waits.
    """

    kind: ClassVar[Kind] = Kind.ITEM
    value: object
    peer: object = None
    local: object = None
    fault: BaseException | None = None

    @abstractmethod
    def ack(self) -> None:
        """The work is done; the source may forget the item."""

    @abstractmethod
    def nack(self, delay: float = 0.0) -> None:
        """The work was not done; offer it again, not before ``delay`` seconds from now."""

    def open(self, deadline: Deadline) -> None:
        """Nothing to do for a leased item."""

    def finish(self, error: BaseException | None) -> None:
        """Acknowledge on success, put back on failure."""
        if error is None:
            self.ack()
        else:
            self.nack()

    def drain(self) -> None:
        """Nothing: the item is finished, or put back."""

    abort = disown = drain
