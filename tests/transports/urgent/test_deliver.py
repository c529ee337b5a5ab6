"""Urgent bytes that are delivered: apart from the stream, at their place, and none lost."""

from __future__ import annotations

import queue
import random
import select
import socket
import sys
from contextlib import suppress

import pytest

from tricorn.errors import ConnectionLost
from tricorn.urgent import MAX_UNTAKEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the policies need Linux")


def test_an_urgent_byte_comes_apart_from_the_stream_and_at_its_place(pair, arrive):
    """Receiving stops at the mark, the byte is taken there, and the stream goes on behind it without the byte."""
    client, connection = pair("deliver")
    client.say(b"before", b"!u", b"after")
    client.shutdown(socket.SHUT_WR)
    arrive(connection, select.POLLPRI)
    urgent = connection.urgent
    assert urgent.pending
    assert not urgent.at_mark
    assert urgent.take() == b""
    assert connection.recv() == b"before"
    assert urgent.at_mark
    assert urgent.take() == b"u"
    assert (urgent.pending, urgent.at_mark, urgent.take()) == (False, False, b"")
    assert b"".join(iter(connection.recv, b"")) == b"after"


def test_an_urgent_byte_that_nobody_took_is_kept_while_the_stream_is_read(pair):
    """Reading on past the mark loses nothing and mixes nothing."""
    client, connection = pair("deliver")
    client.say(b"before", b"!u", b"after")
    client.shutdown(socket.SHUT_WR)
    assert b"".join(iter(connection.recv, b"")) == b"beforeafter"
    assert connection.urgent.pending
    assert connection.urgent.take() == b"u"


def test_notify_is_called_with_each_byte_at_its_place(pair, arrive):
    """Urgent bytes that are read up to one by one all come, between what was sent before them and after."""
    client, connection = pair("deliver")
    seen = []
    connection.urgent.notify = lambda byte: seen.append(b"<" + byte + b">")
    for part in (b"!0", b"ab", b"!1", b"cd", b"!2"):
        client.say(part)
        if part.startswith(b"!"):
            arrive(connection, select.POLLPRI)
            client.say(b".")
        seen.append(connection.recv())
    assert b"".join(seen) == b"<0>.ab<1>.cd<2>."
    assert connection.urgent.take() == b""


def test_a_thread_that_is_blocked_in_recv_learns_of_it(pair, in_thread):
    """The function is called while the receiving call waits, and the call goes on waiting for the stream."""
    client, connection = pair("deliver")
    told = queue.SimpleQueue()
    connection.urgent.notify = told.put
    received = in_thread(connection.recv)
    client.say(b"!u")
    assert told.get(timeout=10) == b"u"
    client.say(b"later")
    assert received() == b"later"


def test_what_notify_raises_comes_out_of_the_receiving_call(pair):
    """It can interrupt a blocked call; the next call goes on with the stream, and nothing is missing."""
    client, connection = pair("deliver")

    class Interrupted(Exception):
        pass

    def interrupt(byte):
        raise Interrupted(byte)

    connection.urgent.notify = interrupt
    assert connection.urgent.notify is interrupt
    client.say(b"!u", b"after")
    with pytest.raises(Interrupted):
        connection.recv()
    assert connection.recv() == b"after"
    assert connection.fault is None


@pytest.mark.parametrize("count", [2, 3])
def test_of_several_at_once_the_last_is_urgent_and_the_others_are_in_the_stream(pair, arrive, count):
    """There is one mark: what came before it is read as the stream has it, in order, and nothing is lost (RFC 6093)."""
    client, connection = pair("deliver")
    client.say(b"a", *(b"!%d" % number for number in range(count)), b"z")
    client.shutdown(socket.SHUT_WR)
    arrive(connection, select.POLLRDHUP)  # and with the end, all that came before it
    assert b"".join(iter(connection.recv, b"")) == b"a" + b"012"[: count - 1] + b"z"
    assert connection.urgent.take() == b"%d" % (count - 1)


def test_a_byte_whose_mark_was_reached_stays_urgent_when_the_mark_moves(pair, arrive):
    """Once reading has stopped at a mark, a later urgent byte does not turn the first into an ordinary one."""
    client, connection = pair("deliver")
    client.say(b"ab", b"!1", b"cd")
    arrive(connection, select.POLLPRI)
    assert connection.recv() == b"ab"
    client.say(b"!2", b"ef")
    client.shutdown(socket.SHUT_WR)
    assert b"".join(iter(connection.recv, b"")) == b"cdef"
    assert connection.urgent.take() == b"12"


def test_nothing_is_lost_or_moved_or_doubled(pair, in_thread):
    """However sender and reader meet: what comes, either way, is what was sent, in the same order."""
    client, connection = pair("deliver")
    chance = random.Random(20)  # noqa: S311 - not for secrets
    sent = [b"%d," % number * chance.randrange(1, 4) for number in range(500)]
    urgent = [chance.random() < 0.3 for _ in sent]

    def feed():
        for part, is_urgent in zip(sent, urgent, strict=True):
            client.say(b"!" + part if is_urgent else part)
        client.shutdown(socket.SHUT_WR)

    received, aside = bytearray(), bytearray()

    def come(byte):
        received.extend(byte)
        aside.extend(byte)

    connection.urgent.notify = come
    fed = in_thread(feed)
    while data := connection.recv(chance.randrange(1, 50)):
        received.extend(data)
    fed()
    assert bytes(received) == b"".join(sent)
    assert 0 < len(aside) <= sum(urgent)


def test_of_several_bytes_in_one_call_the_last_is_urgent(pair):
    """MSG_OOB marks the last byte of what is sent: send(2)."""
    client, connection = pair("deliver")
    client.say(b"!uvw")
    client.shutdown(socket.SHUT_WR)
    assert b"".join(iter(connection.recv, b"")) == b"uv"
    assert connection.urgent.take() == b"w"


def test_an_urgent_byte_at_the_end_is_not_the_end(pair):
    """The byte comes, and then the end of the stream, again and again."""
    client, connection = pair("deliver")
    client.say(b"!u")
    client.close()
    assert connection.recv() == b""
    assert connection.recv() == b""
    assert connection.urgent.take() == b"u"
    assert not connection.urgent.at_mark


def test_every_receiving_call_keeps_to_it(pair, arrive):
    """recv, recv_into, recvfrom, recvfrom_into, recvmsg, recvmsg_into, files, and peeking."""
    client, connection = pair("deliver")
    sock, buffer = connection.socket, bytearray(1)

    def into(receive):
        receive()
        return bytes(buffer)

    calls = [
        lambda: sock.recv(9, socket.MSG_PEEK) and sock.recv(9),
        lambda: into(lambda: sock.recv_into(buffer)),
        lambda: sock.recvfrom(9)[0],
        lambda: into(lambda: sock.recvfrom_into(buffer)),
        lambda: sock.recvmsg(9)[0],
        lambda: into(lambda: sock.recvmsg_into([buffer])),
        lambda: connection.makefile("rb", 0).read(1),
    ]
    for call in calls:
        client.say(b"!u")
        arrive(connection, select.POLLPRI)
        client.say(b"x")
        assert call() == b"x"
    assert connection.urgent.take() == b"u" * len(calls)


def test_a_file_never_has_it(pair):
    """A buffered line is whole, and the urgent byte from its middle is with ``urgent``."""
    client, connection = pair("deliver")
    client.say(b"half a ", b"!u", b"line\n")
    with connection.makefile("rb") as file:
        assert file.readline() == b"half a line\n"
    assert connection.urgent.take() == b"u"


def test_without_anything_to_read_it_waits_as_it_should(pair, arrive):
    """Non-blocking raises BlockingIOError, a timeout TimeoutError, also where there is only an urgent byte."""
    client, connection = pair("deliver")
    sock = connection.socket
    client.say(b"!u")
    arrive(connection, select.POLLPRI)
    sock.settimeout(0)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    sock.settimeout(0.001)
    with pytest.raises(BlockingIOError):
        sock.recv(1, socket.MSG_DONTWAIT)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert connection.urgent.take() == b"u"


def test_a_loop_can_wait_for_it(pair, arrive):
    """The descriptor is ready for POLLPRI until the stream was read up to the byte and the byte was taken."""
    client, connection = pair("deliver")
    poller = select.poll()
    poller.register(connection.urgent, select.POLLPRI)
    client.say(b"ab")
    arrive(connection)
    assert poller.poll(0) == []
    client.say(b"!u")
    assert poller.poll(10_000) == [(connection.socket.fileno(), select.POLLPRI)]
    assert connection.recv() == b"ab"
    assert connection.urgent.take() == b"u"
    assert poller.poll(0) == []


def test_urgent_bytes_that_nobody_takes_are_not_kept_without_limit(pair, arrive):
    """A peer that sends nothing else ends its conversation; what it sent before is still there to be taken."""
    client, connection = pair("deliver")
    sock = connection.socket
    sock.settimeout(0)
    for _ in range(MAX_UNTAKEN):
        client.say(b"!u")
        arrive(connection, select.POLLPRI)
        with suppress(BlockingIOError):
            sock.recv(1)
    client.say(b"!u")
    arrive(connection, select.POLLPRI)
    with pytest.raises(ConnectionLost, match=f"more than {MAX_UNTAKEN} urgent bytes") as caught:
        sock.recv(1)
    assert connection.fault is caught.value
    assert connection.urgent.take() == b"u" * MAX_UNTAKEN


def test_a_closed_connection_has_no_urgent_bytes(pair):
    """After close nothing is pending, and receiving fails as it always does."""
    _, connection = pair("deliver")
    connection.close()
    urgent = connection.urgent
    assert (urgent.pending, urgent.at_mark, urgent.take(), urgent.fileno()) == (False, False, b"", -1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        connection.recv()


def test_a_drain_ends_a_connection_that_waits(pair, in_thread):
    """A thread that waits in recv before the first byte sees the end when the server drains."""
    _, connection = pair("deliver")
    received = in_thread(connection.recv)
    while not connection.socket.waiting:
        pass
    connection.drain()
    assert received() == b""
