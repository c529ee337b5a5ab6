"""Messages instead of bytes: what a framing and a message handler promise, and the conversation that they make.

Nothing here does I/O.  Whoever has the socket (a thread that blocks, an event loop, a test) feeds bytes in and sends
bytes out; so a message handler runs under every dispatcher, and the same bytes come out under each.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from attrs import define, field

from tricorn.errors import FramingError
from tricorn.kinds import Kind

if TYPE_CHECKING:
    from tricorn.deadline import Deadline

__all__ = ["LINGER_BYTES", "LINGER_S", "Conversation", "Decoder", "Framing", "Message", "MessageHandler"]

#: Replies are gathered for this many seconds, or bytes, and then sent, though further messages have arrived.
GATHER_S, GATHER_BYTES = 0.001, 65536
#: Seconds, and bytes, of a peer's further input that are read and dropped after a last word to it, so that closing does
#: not reset the connection under that word: RFC 9112, section 9.6.
LINGER_S, LINGER_BYTES = 1.0, 1_048_576


class Decoder(Protocol):
    """One direction of one conversation: bytes in, whole messages out.  Belongs to one thread at a time."""

    __slots__ = ()

    #: What broke; from then on `feed` returns nothing.
    fault: FramingError | None

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what has arrived, and return the messages that are complete now.

        The messages before a break are returned, and `fault` is set.  Keeps no more than the framing's limit, and does
        work in proportion to ``data``, however small the pieces are.
        """
        ...

    def one(self, data: bytes) -> bytes | None:
        """What `feed` would return, if that is exactly one message and nothing else is under way; ``None`` else, and
        then nothing was taken in.  A short cut for the most common case; a decoder may do without."""
        return None

    def end(self, *, packet: bool = False) -> list[bytes]:
        """Nothing more comes: a last message, where the end ends one, else `fault` if something is incomplete.

        ``packet``: it was a datagram that ended.
        """
        ...

    @property
    def pending(self) -> int:
        """Bytes of an incomplete message that it holds."""
        ...


class Framing(ABC):
    """How messages lie in a stream of bytes, as a frozen value; safe to share between threads."""

    #: What the peer is told, as it stands, when it broke the framing, before the connection is closed.
    error_reply: bytes | None

    @abstractmethod
    def decoder(self) -> Decoder:
        """A new one, for one peer."""

    @abstractmethod
    def encode(self, message: bytes) -> bytes:
        """The bytes of ``message`` on the wire.  Raises `FramingError` for one that the framing cannot carry."""


class MessageHandler(Protocol):
    """What `tricorn.handlers.message` makes of a function.  An attribute ``__tricorn_message__`` tells it apart."""

    framing: Framing

    def __call__(self, request: Any) -> None:
        """Serve a whole request with blocking calls."""
        ...

    def converse(self, request: Any) -> Conversation:
        """Begin the sans-IO side of it."""
        ...


class Conversation:
    """One peer's messages, in order: bytes in, the handler's function called, bytes out.

    `respond` and `finish` do it all at once.  Where messages are worked on elsewhere, `decode` takes them out, and
    `answer` makes the reply of one.  Look at ``error`` after each call: once it is set, send what came out, and end.
    Belongs to one thread at a time.
    """

    # No bound methods among these: with thousands of peers it is the processor's cache that counts.
    __slots__ = ("_call", "_decoder", "_framing", "advanced", "error", "handler", "left")

    def __init__(self, handler: MessageHandler, call: Callable[[Any], object]) -> None:
        self.handler = handler
        self._framing = framing = handler.framing
        self._call = call
        self._decoder = framing.decoder()
        #: Why it is over: a `FramingError` of the peer's making, or what the function raised.
        self.error: BaseException | None = None
        #: Whether the bytes of the last call completed a message, even if a further one has begun.
        self.advanced = False
        #: Messages that `respond` has not come to, since ``most`` was exceeded.
        self.left: list[bytes] = []

    @property
    def idle(self) -> bool:
        """True between messages: nothing incomplete has arrived."""
        return not self._decoder.pending

    @property
    def pending(self) -> int:
        """Bytes of an incomplete message; more of them have come if the number is another than before."""
        return self._decoder.pending

    def respond(self, data: bytes, most: int = sys.maxsize) -> bytes:
        """Everything that is to be sent because ``data`` arrived.

        Once that is more than ``most`` bytes, no further message is worked on, and the rest is in ``left``.
        """
        message = self._decoder.one(data)
        if message is None:
            return self._reply(self._decoder.feed(data), most)
        replies: list[bytes] = []
        try:  # one message, answered by one: spared whatever can be
            reply = self._call(message)
            if type(reply) is bytes:
                return self._framing.encode(reply)
            if reply is not None:
                self._append_all(reply, replies)
        except BaseException as error:
            self.error = _ours(error)
        return b"".join(replies)

    def finish(self, *, packet: bool = False) -> bytes:
        """The same for the end of the stream, or of the datagram."""
        return self._reply(self._decoder.end(packet=packet))

    def exchange(self, data: bytes) -> Iterator[bytes]:
        """`respond` in parts, for whoever can send while the next message is worked on."""
        replies: list[bytes] = []
        began = monotonic()
        for message in self.decode(data):
            reply = self.answer(message)
            if reply:
                replies.append(reply)
                if monotonic() - began >= GATHER_S or len(reply) >= GATHER_BYTES:
                    yield b"".join(replies)
                    replies.clear()
            if self.failed:
                break
            began = began if replies else monotonic()
        replies.append(self.farewell())
        yield b"".join(replies)

    def decode(self, data: bytes) -> list[bytes]:
        """The messages that are complete now; ``b""`` is the end of the stream."""
        found = self._decoder.feed(data) if data else self._decoder.end()
        self.advanced = bool(found)
        if self._decoder.fault is not None and self.error is None:
            self.error = self._decoder.fault
        return found

    def decode_packet(self, data: bytes) -> list[bytes]:
        """The messages of a datagram, which ends with it."""
        found = self._decoder.feed(data)
        if self._decoder.fault is None:
            found = found + self._decoder.end(packet=True)
        self.error = self.error or self._decoder.fault
        return found

    def answer(self, message: Any) -> bytes:
        """Call the function with one message, and return what is to be sent."""
        reply, error = self.work(message)
        if error is not None:
            self.error = error
        return reply

    def work(self, message: Any) -> tuple[bytes, BaseException | None]:
        """`answer` for another thread than the one that feeds it: changes nothing here, and returns the error too."""
        replies: list[bytes] = []
        error = self._work(message, replies)
        return replies[0] if len(replies) == 1 else b"".join(replies), error

    def answer_some(self, messages: deque[Any], most: int) -> bytes:
        """Take messages out, up to one that is ``None``, and answer them, until there are ``most`` bytes to be sent."""
        replies: list[bytes] = []
        size = 0
        while messages and messages[0] is not None and size <= most and not self.failed:
            replies.append(self.answer(messages.popleft()))
            size += len(replies[-1])
        return b"".join(replies)

    def farewell(self) -> bytes:
        """What a peer that broke the framing is told; empty else."""
        return (self._framing.error_reply or b"") if isinstance(self.error, FramingError) else b""

    @property
    def failed(self) -> bool:
        """The function raised; ``error`` is its own."""
        return self.error is not None and self.error is not self._decoder.fault

    def _reply(self, messages: list[bytes], most: int = sys.maxsize) -> bytes:
        self.advanced = bool(messages)
        replies: list[bytes] = []
        size = seen = 0
        for number, message in enumerate(messages, 1):
            self.error = self._work(message, replies)
            if self.error is not None:
                break
            while seen < len(replies):
                size += len(replies[seen])
                seen += 1
            if size > most and number < len(messages):
                self.left, self.error = messages[number:], self._decoder.fault
                return b"".join(replies)
        if self.error is None and self._decoder.fault is not None:
            self.error = self._decoder.fault
            replies.append(self.farewell())
        return replies[0] if len(replies) == 1 else b"".join(replies)

    def _work(self, message: Any, replies: list[bytes]) -> BaseException | None:
        """Call the function; its replies, also those before it raised, are appended.  Returns what it raised."""
        try:
            reply = self._call(message)
            if type(reply) is bytes:
                replies.append(self._framing.encode(reply))
            elif reply is not None:
                self._append_all(reply, replies)
        except BaseException as error:
            return _ours(error)
        return None

    def _append_all(self, reply: object, replies: list[bytes]) -> None:
        if isinstance(reply, (bytes, bytearray, memoryview)):
            replies.append(self._framing.encode(bytes(reply)))
            return
        if isinstance(reply, str) or not isinstance(reply, Iterable):
            raise TypeError(f"the handler returned {reply!r:.100}; allowed: bytes, None, or an iterable of bytes")
        for each in reply:
            if not isinstance(each, (bytes, bytearray, memoryview)):
                raise TypeError(f"the handler yielded {each!r:.100}; allowed: bytes")
            replies.append(self._framing.encode(bytes(each)))


def _ours(error: BaseException) -> BaseException:
    """A reply that cannot be framed is the handler's mistake, and no fault of the peer's."""
    if isinstance(error, FramingError):
        wrong = ValueError(str(error))
        wrong.__cause__ = error
        return wrong
    return error


@define(eq=False)
class Message:
    """One complete message as a request of its own, for the dispatcher that an event loop hands it to.

    The reply is gathered in ``output``; in another process it goes through ``socket``, one end of a pair that is closed
    with the message.
    """

    kind: ClassVar[Kind] = Kind.ITEM

    value: bytes
    peer: object
    #: The conversation that it belongs to, in this process: its state is at hand.
    conversation: Conversation | None = None
    local: object = None
    identity: object = None
    socket: Any = None
    output: list[bytes] = field(factory=list)
    fault: BaseException | None = None

    def reply(self, data: bytes) -> None:
        """Add ``data``, which is framed already, to the reply."""
        if self.socket is None:
            self.output.append(data)
        else:
            self.socket.sendall(data)

    def open(self, deadline: Deadline) -> None:
        """It is complete."""

    def finish(self, error: BaseException | None) -> None:
        """The reply is complete, too."""
        self.disown()

    def drain(self) -> None:
        """It ends by itself."""

    def abort(self) -> None:
        """Nothing to cut."""

    def disown(self) -> None:
        """Close our end of the pair."""
        if self.socket is not None:
            self.socket.close()
