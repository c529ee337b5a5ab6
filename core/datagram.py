"""One packet in, and perhaps a reply out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define

from tricorn.contracts import Kind

if TYPE_CHECKING:
    from tricorn.deadline import Deadline

__all__ = ["Datagram"]


@define(eq=False)
class Datagram:
    """One packet; it borrows the listener's socket and never closes it.  Safe to hand between threads."""

    kind: ClassVar[Kind] = Kind.DATAGRAM

    #: The packet's bytes; may be empty.
    data: bytes
    #: The sender's address, or ``None`` for a Unix client that has no name and can get no reply.
    peer: Any
    #: The shared socket it came in by.
    socket: Any
    #: The local address that the packet was sent to.
    local: object = None
    #: True if the packet was longer than the transport's limit and ``data`` is only its beginning.
    truncated: bool = False
    #: The job's number, unique in this process.
    id: int = 0
    #: Sends one reply from the address that the client used; ``None`` means plain sendto(2).
    sender: Callable[[bytes], int] | None = None
    fault: BaseException | None = None

    def reply(self, data: bytes | bytearray | memoryview) -> int:
        """Send one packet to the sender, from the local address that it used; returns the bytes sent.

        A sender without a name gets nothing: 0, and no error.  Blocks only while the socket's buffer is full.
        Raises `OSError` (EMSGSIZE above the transport's limit) as sendto(2) does.
        """
        if self.peer is None:
            return 0
        try:
            if self.sender is not None:
                return self.sender(bytes(data))
            sent: int = self.socket.sendto(data, self.peer)
        except OSError as error:
            self.fault = error
            raise
        return sent

    def open(self, deadline: Deadline) -> None:
        """A packet is complete when it arrives."""

    def finish(self, error: BaseException | None) -> None:
        """The socket is the listener's: nothing to close."""

    def drain(self) -> None:
        """A packet is never idle: its job ends by itself."""

    def abort(self) -> None:
        """Nothing to cut: there is no conversation."""

    def disown(self) -> None:
        """Nothing to close: the socket is the listener's."""
