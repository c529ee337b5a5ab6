"""Connections inside this process."""

from __future__ import annotations

import errno
import select

import pytest

from tricorn.contracts import Kind
from tricorn.errors import ConfigurationError, ListenError
from tricorn.transports import Memory


def is_readable(listener):
    """Whether the listener looks ready now."""
    return bool(select.select([listener], [], [], 0)[0])


@pytest.fixture
def memory():
    """A transport with a small backlog."""
    return Memory("test", backlog=2)


@pytest.fixture
def listener(memory, loopback):
    """Its listener."""
    return loopback.listen(memory)


def test_it_is_a_stream_of_this_process(memory, listener):
    """It says so, and its address is its name."""
    assert Memory.kind is Kind.STREAM
    assert Memory.in_process
    assert listener.address == "memory:test"


def test_bytes_go_both_ways(memory, listener):
    """A connection carries bytes both ways, and both ends know both addresses."""
    client = memory.connect()
    assert is_readable(listener)
    connection = listener.accept()
    assert not is_readable(listener)
    client.sendall(b"ping")
    assert connection.recv() == b"ping"
    connection.send(b"pong")
    assert client.recv(10) == b"pong"
    assert connection.local == client.getpeername() == "memory:test"
    assert connection.peer == client.getsockname() == "memory:test#1"
    assert connection.credentials is None
    connection.finish(None)
    assert client.recv(10) == b""
    client.close()


def test_accept_never_blocks_and_takes_in_order(memory, listener):
    """Connections are accepted in the order they came; then accept raises BlockingIOError."""
    with memory.connect() as first, memory.connect() as second:
        assert listener.accept().peer == first.getsockname()
        assert is_readable(listener)
        assert listener.accept().peer == second.getsockname()
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert not is_readable(listener)


def test_value_outside_and_living_inside():
    """Equal names and backlogs make equal values; names are made up where none is given; evolving starts afresh."""
    assert Memory("a") == Memory("a")
    assert hash(Memory("a")) == hash(Memory("a"))
    assert Memory() != Memory()
    assert "switchboard" not in repr(Memory("a"))


def test_connect_is_refused_before_listen_and_after_close(memory, loopback):
    """Where nobody listens connecting raises ConnectionRefusedError."""
    with pytest.raises(ConnectionRefusedError, match="nobody listens on memory:test"):
        memory.connect()
    listener = loopback.listen(memory)
    memory.connect().close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        memory.connect()
    with pytest.raises(OSError, match=r".") as caught:
        listener.accept()
    assert caught.value.errno == errno.EBADF


def test_it_can_be_listened_on_again(memory, loopback):
    """After close a new listener takes over; until then a second one is EADDRINUSE."""
    first = loopback.listen(memory)
    with pytest.raises(ListenError, match="memory:test") as caught:
        memory.listen()
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.address == "memory:test"
    first.close()
    second = loopback.listen(memory)
    first.close()
    with memory.connect():
        second.accept().close()


def test_full_backlog_makes_connect_wait(memory, listener, in_thread):
    """A client beyond the backlog is let in when one is accepted."""
    waiting = [memory.connect(), memory.connect()]
    third = in_thread(memory.connect)
    accepted = [listener.accept()]
    client = third()
    accepted += [listener.accept(), listener.accept()]
    assert accepted[-1].peer == client.getsockname()
    for end in (*waiting, client, *accepted):
        end.close()


def test_full_backlog_with_a_time_limit(memory, listener):
    """With a timeout connect gives up."""
    waiting = [memory.connect(), memory.connect()]
    with pytest.raises(TimeoutError, match="backlog of memory:test"):
        memory.connect(timeout=0.01)
    for client in waiting:
        client.close()


def test_close_refuses_those_who_wait_for_the_backlog(loopback, in_thread):
    """A client that waits for room is refused when the listener is closed."""
    memory = Memory(backlog=1)
    listener = loopback.listen(memory)
    memory.connect()
    clients = [in_thread(memory.connect) for _ in range(3)]
    listener.close()
    for client in clients:
        with pytest.raises(ConnectionRefusedError):
            client()


def test_close_ends_those_who_were_not_accepted(memory, listener):
    """Their connection is over; with bytes unread it is reset."""
    silent, eager = memory.connect(), memory.connect()
    eager.sendall(b"hello")
    listener.close()
    assert silent.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        eager.recv(1)


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_can_be_injected(memory, listener, number):
    """An injected errno is raised by the next accept, while the listener looks ready; what waits stays."""
    memory.inject(number)
    assert is_readable(listener)
    client = memory.connect()
    with pytest.raises(OSError, match=r".") as caught:
        listener.accept()
    assert caught.value.errno == number
    assert is_readable(listener)
    listener.accept().close()
    client.close()


def test_fault_can_be_injected_several_times(memory, listener):
    """``times`` accepts fail, the one after does not."""
    memory.inject(errno.EMFILE, times=3)
    for _ in range(3):
        assert is_readable(listener)
        with pytest.raises(OSError, match="Too many open files"):
            listener.accept()
    assert not is_readable(listener)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_exception_can_be_injected_before_listening(memory, loopback):
    """An exception is raised as it is, also if nobody listened when it was injected."""
    fault = ValueError("strange")
    memory.inject(fault)
    listener = loopback.listen(memory)
    assert is_readable(listener)
    with pytest.raises(ValueError, match="strange") as caught:
        listener.accept()
    assert caught.value is fault


@pytest.mark.parametrize(("fault", "times"), [("EMFILE", 1), (True, 1), (errno.EMFILE, 0), (errno.EMFILE, "1")])
def test_wrong_injection_is_a_configuration_error(memory, fault, times):
    """What is neither errno nor exception cannot be injected, nor less than once."""
    with pytest.raises(ConfigurationError, match="must be"):
        memory.inject(fault, times)


@pytest.mark.parametrize("options", [{"backlog": 0}, {"backlog": "1"}, {"name": ""}, {"name": 1}])
def test_wrong_option_is_a_configuration_error(options):
    """A value that cannot work is refused when the transport is built, with option and value."""
    ((name, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}.*must be"):
        Memory(**options)


def test_listener_gives_its_descriptors_back(memory, open_descriptors):
    """Close, or disown, leaves no descriptor."""
    before = open_descriptors()
    for end in ("close", "disown"):
        (listener,) = memory.listen()
        assert open_descriptors() > before
        getattr(listener, end)()
        assert open_descriptors() == before


# -- what a job does with the connection


@pytest.fixture
def connection(memory, listener):
    """The server's side of a connection; its client is ``connection.client``."""
    client = memory.connect()
    connection = listener.accept()
    yield connection, client
    connection.close()
    client.close()


def test_finish_ends_the_conversation_although_a_file_leaked(connection):
    """A file that the handler forgot does not keep the client waiting."""
    server, client = connection
    leaked = server.makefile("rb")
    server.finish(None)
    assert client.recv(1) == b""
    leaked.close()


def test_drain_ends_an_idle_conversation(connection, in_thread):
    """A handler that waits for the next request sees the end, and can still send."""
    server, client = connection
    waiting = in_thread(server.recv)
    server.drain()
    assert waiting() == b""
    assert server.draining
    server.send(b"bye")
    assert client.recv(10) == b"bye"


def test_drain_lets_a_request_finish(connection):
    """In the middle of a request draining changes nothing; one exchange after the reply, the input ends."""
    server, client = connection
    client.sendall(b"half")
    assert server.recv() == b"half"
    server.drain()
    client.sendall(b" whole")
    assert server.recv() == b" whole"
    server.send(b"continue")
    client.sendall(b"body")
    assert server.recv() == b"body"
    server.send(b"reply")
    assert server.recv() == b""
    with pytest.raises(BrokenPipeError):
        client.sendall(b"next")


def test_abort_wakes_a_blocked_recv(connection, in_thread):
    """The owner's recv returns the end; the client sees it too."""
    server, client = connection
    waiting = in_thread(server.recv)
    server.abort()
    assert waiting() == b""
    assert client.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        client.sendall(b"x")


def test_abort_wakes_a_blocked_send(connection, in_thread):
    """The owner's send fails, and the failure is the connection's fault."""
    server, client = connection
    sending = in_thread(server.send, bytes(10_000_000))
    assert client.recv(1)
    server.abort()
    with pytest.raises(BrokenPipeError):
        sending()
    assert isinstance(server.fault, BrokenPipeError)


def test_drain_and_abort_after_close_do_nothing(connection):
    """Both are for other threads, who cannot know that it is over."""
    server, _ = connection
    local = server.local
    server.close()
    server.close()
    server.drain()
    server.abort()
    server.disown()
    assert local == "memory:test"


def test_send_eof_leaves_the_other_direction(connection):
    """After send_eof the client sees the end, and can still send."""
    server, client = connection
    server.send_eof()
    assert client.recv(1) == b""
    client.sendall(b"still here")
    assert server.recv() == b"still here"
    with pytest.raises(BrokenPipeError):
        server.send(b"x")
