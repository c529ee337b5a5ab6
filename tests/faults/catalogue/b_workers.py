"""B. Handlers that raise, hang, and die; workers."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from scenario import IN_THE_LOOP, POOLS, PROCESSES, scenario
from subject import Failure, Subject, read_line, until


def _fails(server: Subject, order: bytes, words: str, times: int = 3) -> None:
    for _ in range(times):
        if server.ask(order):
            raise Failure(f"{order!r} was answered")
    server.logged(words, times)
    server.expect()


@scenario(11, "an exception", quick=True)
def exception(dispatcher: str) -> None:
    """Twenty of them are told once each, and cost their requests."""
    with Subject(dispatcher) as server:
        _fails(server, b"raise", "ValueError: bad", 20)


@scenario(12, "a BaseException", quick=True)
def base_exception(dispatcher: str) -> None:
    """The same; never silent."""
    with Subject(dispatcher) as server:
        _fails(server, b"base", "Whim: whim")


@scenario(13, "SystemExit", quick=True)
def system_exit(dispatcher: str) -> None:
    """Ends the request, not the server."""
    with Subject(dispatcher) as server:
        _fails(server, b"exit", "SystemExit: 3")


@scenario(14, "KeyboardInterrupt", quick=True)
def keyboard_interrupt(dispatcher: str) -> None:
    """The same, where it was the handler that raised it."""
    with Subject(dispatcher) as server:
        _fails(server, b"interrupt", "KeyboardInterrupt")


@scenario(
    15, "a worker dies", on=PROCESSES, why="the handler is in the server's own process, and that dies", quick=True
)
def worker_dies(dispatcher: str) -> None:
    """Its client sees the end, the next one is served within a second, by another."""
    with Subject(dispatcher) as server:
        for order in (b"kill", b"segv", b"leave"):
            if server.ask(order, 5.0):
                raise Failure(f"{order!r} was answered")
            server.expect()


@scenario(22, "one worker of several dies", on=POOLS, why="there is no pool of processes")
def others_go_on(dispatcher: str) -> None:
    """What the others are at goes on."""
    with Subject(dispatcher) as server, ExitStack() as stack:
        callers = {}
        while len(callers) < 2:
            caller = stack.enter_context(server.call())
            caller.sendall(b"pid\n")
            callers.setdefault(read_line(caller), caller)
        (victim, lost), (_, other) = callers.items()
        other.sendall(b"sleep 0.5\n")
        os.kill(int(victim), signal.SIGKILL)
        if read_line(other) != b"slept" or lost.recv(1):
            raise Failure("the other worker's request was lost, or the victim's was not")
        server.expect()


@scenario(
    17, "a handler that hangs", but=IN_THE_LOOP - {"asyncio"}, why="a function that blocks the loop cannot be ended"
)
def handler_hangs(dispatcher: str) -> None:
    """Its connection is cut at the deadline; a process is replaced; it is told of; others are served."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--deadlines", '{"request": 1.0}') as server:
        if server.ask(b"hang", 4.0):
            raise Failure("it was answered")
        server.logged("runs for longer than 1.000 s")
        if not dispatcher.startswith("sync"):  # whose only thread it is
            server.expect(timeout=4.0)


@scenario(18, "all workers hang", but=frozenset({"selector"}), why="a function that blocks the loop cannot be ended")
def all_hang(dispatcher: str) -> None:
    """SIGTERM still ends it, at its deadline."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--drain", "1") as server, ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(server.call()).sendall(b"hang\n")
        server.signal(signal.SIGTERM)
        server.wait(6.0)


@scenario(19, "the event loop is blocked", on=IN_THE_LOOP, why="a handler that blocks holds up one thread or process")
def loop_blocked(dispatcher: str) -> None:
    """It is told of while it lasts, with a stack that names the handler; then all goes on."""
    with Subject(dispatcher) as server, server.call() as caller:
        caller.sendall(b"block 4\n")
        server.logged("the event loop is blocked, and serves nobody")
        server.logged("in answer")
        if read_line(caller) != b"blocked":
            raise Failure("it was not answered")
        server.expect()


@scenario(20, "verify raises", quick=True)
def verify_raises(dispatcher: str) -> None:
    """That peer is refused, the next one is served."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--verify") as server:
        answers = [server.ask(b"a") for _ in range(8)]
        if b"a" not in answers or b"" not in answers:
            raise Failure(f"of every two one should be served: {answers}")
        server.logged("no list of friends")


@scenario(27, "the server is killed", on=PROCESSES, why="it has no other process", quick=True)
def parent_killed(dispatcher: str) -> None:
    """Nobody is left, and the port is free."""
    with Subject(dispatcher) as server:
        server.expect()
        with server.call() as caller:
            caller.sendall(b"pid\n")
            read_line(caller)
            family = server.pids()[1:]
            os.kill(server.pid, signal.SIGKILL)
            until(lambda: not any(os.path.exists(f"/proc/{pid}/fd/0") for pid in family), "the children leave", 5.0)
        try:
            with server.call(1.0):
                raise Failure("somebody still listens")
        except ConnectionRefusedError:
            pass


@scenario(38, "stopped for a while", on=POOLS, why="no heartbeat is watched")
def stopped(dispatcher: str) -> None:
    """SIGSTOP and SIGCONT of all: nobody is taken for dead."""
    with Subject(dispatcher + "&hang_timeout=2.5") as server:
        server.expect()
        before = sorted(server.children())
        for pid in server.pids():
            os.kill(pid, signal.SIGSTOP)
        began = os.times().elapsed
        until(lambda: os.times().elapsed - began > 4, "time passes", 6.0)
        for pid in reversed(server.pids()):
            os.kill(pid, signal.SIGCONT)
        server.expect()
        began = os.times().elapsed
        until(lambda: os.times().elapsed - began > 2, "time passes", 6.0)
        if sorted(server.children()) != before:
            raise Failure(f"workers were replaced: {server.log()!r}")
