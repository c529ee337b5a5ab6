"""`message`: a handler from a function that gets one message and returns the reply."""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from tricorn.contracts import Item, Kind, Shape
from tricorn.errors import ConfigurationError, FramingError
from tricorn.handlers import Lines, RecordMarked, message
from tricorn.handling import kinds_of, shape_of
from tricorn.messages import Conversation, Message


def say(function: Callable[..., Any], sent: bytes, **request: Any) -> tuple[bytes, BaseException | None]:
    """What a handler of lines answers, and how it ends; without I/O."""
    conversation = message(Lines())(function).converse(SimpleNamespace(**request))
    return conversation.respond(sent), conversation.error


# -- what the function returns


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"one", b"one\n"),
        (b"", b"\n"),
        (bytearray(b"one"), b"one\n"),
        (memoryview(b"one"), b"one\n"),
        (None, b""),
        ([], b""),
        ([b"one", bytearray(b"two"), b""], b"one\ntwo\n\n"),
        (iter((b"one", b"two")), b"one\ntwo\n"),
    ],
)
def test_replies(reply: Any, expected: bytes) -> None:
    """Bytes are a reply, None is none, anything to iterate over is several; each is framed."""
    assert say(lambda line: reply, b"x\n") == (expected, None)


def test_generators() -> None:
    """A generator's values are the replies."""

    def count(line: bytes) -> Iterator[bytes]:
        for n in range(int(line)):
            yield b"%d" % n

    assert say(count, b"0\n3\n") == (b"0\n1\n2\n", None)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("text", "the handler returned 'text'; allowed: bytes, None, or an iterable of bytes"),
        (7, "the handler returned 7; allowed: bytes, None, or an iterable of bytes"),
        (["text"], "the handler yielded 'text'; allowed: bytes"),
        ([b"one", None], "the handler yielded None; allowed: bytes"),
    ],
)
def test_wrong_replies(reply: Any, said: str) -> None:
    """Anything else is a mistake of the handler's, named in the error; what came before it is still sent."""
    out, error = say(lambda line: reply, b"x\ny\n")
    assert out == (b"one\n" if b"one" in (reply if isinstance(reply, list) else ()) else b"")
    assert isinstance(error, TypeError)
    assert str(error) == said


def test_a_failure_ends_it() -> None:
    """What was replied before is sent, what comes after is not looked at, and the error is the function's own."""
    mine = ValueError("mine")

    def fail(line: bytes) -> Iterator[bytes]:
        yield line
        if line == b"b":
            raise mine

    assert say(fail, b"a\nb\nc\n") == (b"a\nb\n", mine)


def test_a_reply_that_cannot_be_framed() -> None:
    """That is the handler's mistake and no fault of the peer's: it gets no error reply."""
    handler = message(Lines(error_reply=b"your fault\n"))(lambda line: line + b"\n")
    conversation = handler.converse(None)
    assert conversation.respond(b"x\n") == b""
    assert isinstance(conversation.error, ValueError)
    assert not isinstance(conversation.error, FramingError)
    assert "line feed" in str(conversation.error)
    assert conversation.failed


# -- what it is called with


def test_extras() -> None:
    """Parameters named peer, identity and state are filled in; others may have defaults."""

    def each(line: bytes, more: int = 5, *, peer: Any, state: dict[str, int], identity: str) -> bytes:
        state["calls"] = state.get("calls", 0) + 1
        return repr((line, more, peer, state["calls"], identity)).encode()

    out, error = say(each, b"a\nb\n", peer="p", identity="i")
    assert error is None
    assert out == b"(b'a', 5, 'p', 1, 'i')\n(b'b', 5, 'p', 2, 'i')\n"


def test_state_is_of_the_conversation() -> None:
    """Each conversation has a state of its own, made by the given callable."""

    @message(Lines(), state=list)
    def collect(line: bytes, state: list[bytes]) -> bytes:
        state.append(line)
        return b"".join(state)

    one, other = collect.converse(None), collect.converse(None)
    assert one.respond(b"a\nb\n") == b"a\nab\n"
    assert other.respond(b"c\n") == b"c\n"


def test_builtins_will_do() -> None:
    """A builtin function, a method, a partial and a callable object are functions, too."""

    class Callable_:
        def __call__(self, line: bytes) -> bytes:
            return line * 2

    for function in (bytes.upper, b"%b".__mod__, partial(int.to_bytes, length=1, byteorder="big"), Callable_()):
        assert message(Lines())(function).framing == Lines()  # type: ignore[arg-type]
    assert say(bytes.upper, b"ab\n") == (b"AB\n", None)
    assert say(Callable_(), b"ab\n") == (b"abab\n", None)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (5, "message(...) was put on 5, which cannot be called"),
        (lambda: b"", "it is called with the message, and by name with any of peer, state, identity"),
        (lambda line, what: b"", "missing a required argument: 'what'"),
        (math.pow, "cannot be a message handler"),
    ],
)
def test_functions_that_cannot_be_called_so(function: Any, said: str) -> None:
    """They are refused when the handler is made."""
    with pytest.raises(ConfigurationError) as refused:
        message(Lines())(function)
    assert said in str(refused.value)


def test_coroutine_functions() -> None:
    """A coroutine function, or an asynchronous generator, is refused with what to write instead."""

    async def later(line: bytes) -> bytes:
        return line

    async def several(line: bytes) -> Any:
        yield line

    for function in (later, several):
        with pytest.raises(ConfigurationError, match="is a coroutine function.*serve it with Asyncio"):
            message(Lines())(function)


def test_no_framing() -> None:
    """A framing has to be an object of one."""
    for wrong in (Lines, None, b"\n"):
        with pytest.raises(ConfigurationError, match=r"message\(.*a framing is needed, such as Lines\(\)"):
            message(wrong)  # type: ignore[arg-type]


# -- as an object


@message(Lines())
def by_name(line: bytes) -> bytes:
    """What it does."""
    return line.upper()


def test_what_it_looks_like() -> None:
    """It has the function's name and docstring, the shape of a message handler, and serves all kinds."""
    assert (by_name.__name__, by_name.__doc__) == ("by_name", "What it does.")
    assert "by_name, Lines(" in repr(by_name)
    assert shape_of(by_name) is Shape.MESSAGE
    assert kinds_of(by_name) == frozenset(Kind)
    assert by_name.function(b"a") == b"A"


def test_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can be imported is pickled by its name; any other by its parts, which have to be picklable."""
    monkeypatch.setitem(__import__("sys").modules, __name__, SimpleNamespace(by_name=by_name))
    assert pickle.loads(pickle.dumps(by_name)) is by_name
    copy = pickle.loads(pickle.dumps(message(Lines(7))(bytes.upper)))
    assert copy.framing == Lines(7)
    assert copy.converse(None).respond(b"a\n") == b"A\n"
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(message(Lines())(lambda line: line))


# -- conversations


def test_idle() -> None:
    """A conversation is idle between messages, and says how much of one has come."""
    conversation = by_name.converse(None)
    assert conversation.idle
    assert conversation.respond(b"a\nbc") == b"A\n"
    assert (conversation.idle, conversation.pending, conversation.advanced) == (False, 2, True)
    assert conversation.respond(b"d") == b""
    assert (conversation.pending, conversation.advanced) == (3, False)
    assert conversation.respond(b"\n") == b"BCD\n"
    assert conversation.idle


@pytest.mark.parametrize("reply", [None, b"too long\n"])
def test_farewell(reply: bytes | None) -> None:
    """A peer that breaks the framing is told what the framing says, once, after the replies to what came before."""
    conversation = message(Lines(4, error_reply=reply))(bytes.upper).converse(None)
    assert conversation.respond(b"ab\ncdefgh\nij\n") == b"AB\n" + (reply or b"")
    assert isinstance(conversation.error, FramingError)
    assert not conversation.failed
    assert conversation.respond(b"kl\n") == b""


def test_work_elsewhere() -> None:
    """`work` changes nothing of the conversation, though its input has broken meanwhile, or the function fails."""

    def picky(line: bytes) -> bytes:
        return b"%d" % int(line)

    conversation = message(Lines(4, error_reply=b"!"))(picky).converse(None)
    assert conversation.decode(b"1\nx\n22222\n") == [b"1", b"x"]
    fault = conversation.error
    assert isinstance(fault, FramingError)
    assert conversation.work(b"1") == (b"1\n", None)
    reply, error = conversation.work(b"x")
    assert (reply, type(error)) == (b"", ValueError)
    assert conversation.error is fault
    assert conversation.farewell() == b"!"


@pytest.mark.parametrize("sent", [b"a\nb\nc\nd\n", b"a\nb\nc\nd\nx" * 1 + b"yzzzzzz\n"], ids=["all right", "too long"])
def test_no_more_at_once_than_the_peer_takes(sent: bytes) -> None:
    """With a limit, the messages are left that come after it was exceeded; together it is the same."""
    handler = message(Lines(5, error_reply=b"!"))(lambda request: [request] * 3)
    whole, parts = handler.converse(None), handler.converse(None)
    first = parts.respond(sent, 7)
    assert first == b"a\na\na\nb\nb\nb\n"
    assert parts.left == [b"c", b"d"]
    rest = deque([*parts.left, None])
    second = parts.answer_some(rest, 0)
    assert second == b"c\nc\nc\n"
    third = parts.answer_some(rest, 100)
    assert list(rest) == [None]
    assert first + second + third + parts.farewell() == whole.respond(sent)
    assert str(parts.error) == str(whole.error)


def test_exchange_sends_what_is_ready() -> None:
    """Replies to earlier messages are handed out while later ones are worked on: here each takes its time."""
    import time

    def slow(line: bytes) -> bytes:
        time.sleep(0.002)  # longer than replies are gathered
        return line

    parts = [part for part in message(Lines())(slow).converse(None).exchange(b"a\nb\nc\n") if part]
    assert parts == [b"a\n", b"b\n", b"c\n"]


def test_packets() -> None:
    """A datagram's messages are all there is, and its end ends the last one."""
    conversation = by_name.converse(None)
    assert conversation.decode_packet(b"a\nb") == [b"a", b"b"]
    assert conversation.error is None
    conversation = message(RecordMarked())(bytes.upper).converse(None)
    assert conversation.decode_packet(b"\x80\0\0\1a\0") == [b"a"]
    assert "the packet ended in the middle of a message" in str(conversation.error)


# -- items


class Task(Item):
    """An item without anybody to reply to."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def ack(self) -> None:
        """Nothing."""

    def nack(self, delay: float = 0.0) -> None:
        """Nothing."""


def test_items() -> None:
    """An item's value is a message as it is; a reply where nobody waits for one is a mistake."""
    seen: list[bytes] = []
    message(Lines())(seen.append)(Task(b"a\nb"))
    assert seen == [b"a\nb"]
    with pytest.raises(TypeError, match="an item has nobody to reply to"):
        by_name(Task(b"a"))


def test_a_message_of_a_conversation() -> None:
    """A `Message` is answered with its conversation's state, and gathers the framed reply; a failure is raised."""

    @message(Lines())
    def number(line: bytes, state: dict[str, int]) -> bytes:
        state["n"] = state.get("n", 0) + int(line)
        return b"%d" % state["n"]

    conversation: Conversation = number.converse(None)
    first, second, third = (Message(each, None, conversation) for each in (b"1", b"2", b"x"))
    number(first)
    number(second)
    assert first.output + second.output == [b"1\n", b"3\n"]
    with pytest.raises(ValueError, match="invalid literal"):
        number(third)
