"""The sockets of connections inside this process."""

from __future__ import annotations

import errno
import socket

import pytest

from tricorn.memory_socket import memory_pair


@pytest.fixture
def ends():
    """Both sockets of a connection."""
    one, other = memory_pair("memory:test", "memory:test#1")
    yield one, other
    one.close()
    other.close()


def test_recv_takes_no_more_than_asked(ends):
    """Bytes that were not taken stay."""
    one, other = ends
    one.sendall(b"abcdef")
    assert other.recv(4) == b"abcd"
    assert other.recv(0) == b""
    assert other.recv(4) == b"ef"
    with pytest.raises(ValueError, match="negative"):
        other.recv(-1)


def test_peek_leaves_the_bytes(ends):
    """MSG_PEEK looks without taking."""
    one, other = ends
    one.sendall(b"abc")
    assert other.recv(2, socket.MSG_PEEK) == b"ab"
    assert other.recv(10) == b"abc"


def test_recv_into_fills_a_buffer(ends):
    """As much as there is, at most nbytes."""
    one, other = ends
    one.sendall(b"abcdef")
    buffer = bytearray(4)
    assert other.recv_into(buffer) == 4
    assert other.recv_into(buffer, 1) == 1
    assert bytes(buffer) == b"ebcd"


def test_timeouts(ends):
    """A recv without data times out; with timeout 0, or MSG_DONTWAIT, it raises BlockingIOError at once."""
    one, other = ends
    assert other.gettimeout() is None
    other.settimeout(0.01)
    with pytest.raises(TimeoutError):
        other.recv(1)
    assert isinstance(other.fault, TimeoutError)
    other.setblocking(False)
    assert not other.getblocking()
    with pytest.raises(BlockingIOError):
        other.recv(1)
    other.setblocking(True)
    assert other.getblocking()
    if hasattr(socket, "MSG_DONTWAIT"):
        with pytest.raises(BlockingIOError):
            other.recv(1, socket.MSG_DONTWAIT)
    with pytest.raises(ValueError, match="out of range"):
        one.settimeout(-1)


def test_sender_waits_for_a_reader(ends, in_thread):
    """The buffer is bounded: what does not fit waits, and arrives whole."""
    one, other = ends
    data = bytes(range(256)) * 8192
    sending = in_thread(one.sendall, data)
    received = b""
    while len(received) < len(data):
        received += other.recv(65536)
    sending()
    assert received == data


def test_sender_without_a_reader_times_out(ends):
    """sendall's timeout is for the whole; send takes what fits."""
    one, _ = ends
    one.settimeout(0.01)
    with pytest.raises(TimeoutError):
        one.sendall(bytes(10_000_000))
    one.settimeout(0)
    with pytest.raises(BlockingIOError):
        one.send(b"x")
    with pytest.raises(BlockingIOError):
        one.sendall(b"x")
    assert one.send(b"") == 0


def test_send_takes_what_fits(ends):
    """send returns how much was taken."""
    one, other = ends
    assert 0 < one.send(bytes(10_000_000)) < 10_000_000
    assert other.recv(10) == bytes(10)


def test_close_with_bytes_unread_resets_the_peer(ends):
    """As with a Unix socket: first what was sent, then ECONNRESET once, then the end."""
    one, other = ends
    one.sendall(b"unread")
    other.sendall(b"last words")
    other.close()
    assert one.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        one.recv(100)
    assert one.recv(100) == b""


def test_closed_socket_raises_ebadf(ends):
    """Every call on a closed socket raises EBADF."""
    one, _ = ends
    one.close()
    calls = [
        lambda: one.recv(1),
        lambda: one.send(b"x"),
        lambda: one.sendall(b"x"),
        lambda: one.shutdown(socket.SHUT_RDWR),
        one.getsockname,
        one.getpeername,
    ]
    for call in calls:
        with pytest.raises(OSError, match=r".") as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_options_mean_nothing(ends):
    """Socket options can be set, as handlers do, and mean nothing."""
    one, _ = ends
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    assert one.fileno() == -1


def test_files(ends):
    """makefile reads lines, writes with and without a buffer, and does text."""
    one, other = ends
    with one.makefile("wb", 0) as raw, one.makefile("wb") as buffered, one.makefile("w", encoding="utf-8") as text:
        raw.write(b"raw\n")
        buffered.write(b"buffered\n")
        buffered.flush()
        text.write("täxt\n")
    one.shutdown(socket.SHUT_WR)
    with other.makefile("rb", -1) as file:
        assert file.readlines() == [b"raw\n", b"buffered\n", "täxt\n".encode()]


def test_file_for_both_directions(ends):
    """A file can read and write."""
    one, other = ends
    with one.makefile("rwb") as file, other.makefile("r", encoding="utf-8", newline="\n") as text:
        other.sendall(b"question\n")
        assert file.readline() == b"question\n"
        file.write(b"answer\n")
        file.flush()
        assert text.readline() == "answer\n"


def test_file_on_a_socket_that_does_not_block(ends):
    """A raw file returns None where the socket would block."""
    one, _ = ends
    one.settimeout(0)
    with one.makefile("rwb", 0) as raw:
        assert raw.read(1) is None
        while raw.write(bytes(100_000)) is not None:
            pass
        assert raw.fileno() == -1


def test_wrong_file_modes(ends):
    """Modes that make no sense are a ValueError."""
    one, _ = ends
    with pytest.raises(ValueError, match="invalid mode"):
        one.makefile("a")
    with pytest.raises(ValueError, match="binary"):
        one.makefile("r", 0)


def test_socket_closes_with_its_last_file(ends):
    """A file keeps the connection open beyond close, as with real sockets."""
    one, other = ends
    file = one.makefile("wb", 0)
    one.close()
    file.write(b"late")
    assert other.recv(10) == b"late"
    file.close()
    file.close()
    assert other.recv(10) == b""
