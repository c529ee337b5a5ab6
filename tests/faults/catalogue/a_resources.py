"""A. Out of descriptors, memory, threads, processes."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from time import monotonic

from scenario import THREADS, scenario
from subject import Failure, Subject, until

#: Errors of accept(2) that are one peer's, and are to be passed over.
PEERS = (
    "ECONNABORTED,EPROTO,ENETDOWN,ENOPROTOOPT,EHOSTDOWN,ENONET,EHOSTUNREACH,EOPNOTSUPP,ENETUNREACH,EPERM,EINTR,"
    "EPROTONOSUPPORT,ESOCKTNOSUPPORT,ETIMEDOUT"
)


def _core_share(server: Subject, seconds: float) -> float:
    """The share of one processor that it takes."""
    before, began = server.cpu_s(), monotonic()
    until(lambda: monotonic() - began >= seconds, "time", 2 * seconds)
    return (server.cpu_s() - before) / (monotonic() - began)


@scenario(1, "no descriptor for accept", quick=True)
def emfile_at_accept(dispatcher: str) -> None:
    """Those inside are served, accepting costs little and says so now and then, and goes on when there are some."""
    with Subject(dispatcher) as server, ExitStack() as stack:
        server.expect()
        server.limit_descriptors(0)
        for _ in range(20):
            stack.enter_context(server.call())
        share = _core_share(server, 2.0)
        if share > 0.10:
            raise Failure(f"it takes {share:.0%} of a processor while it has no descriptor")
        lines = server.log().count("accepting paused")
        if lines > 4 * max(1, len(server.pids())):
            raise Failure(f"{lines} lines in the log in two seconds")
        stack.close()
        server.limit_descriptors(None)
        server.expect(timeout=3.0)


@scenario(3, "no descriptor in the handler", but=frozenset({"fork"}), why="a child's descriptors are its own")
def emfile_in_handler(dispatcher: str) -> None:
    """That request fails, and no other."""
    with Subject(dispatcher) as server:
        for _ in range(40):
            server.expect()  # all workers are there, and have what they wait with
        server.limit_descriptors(8)
        if server.ask(b"files"):
            raise Failure("the handler that ran out of descriptors was answered")
        server.logged("Too many open files")
        server.expect()


@scenario(4, "errors of accept that are the peer's", quick=True)
def peers_errors(dispatcher: str) -> None:
    """Each is passed over at once, and not worth a line."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--accept-errors", PEERS) as server:
        server.expect()
        if any(line for line in server.log().splitlines() if not line.startswith("INFO")):
            raise Failure(f"it says {server.log()!r}")


@scenario(5, "no buffers for two seconds")
def enobufs(dispatcher: str) -> None:
    """Ten tries a second in each process, and then those who waited are served."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--accept-errors", "ENOBUFS", "--for-seconds", "2") as server:
        server.expect(timeout=6.0)
        tries = int(server.hear("tries"))
        if tries > 400:
            raise Failure(f"{tries} tries to accept in two seconds")


def _answer(caller: socket.socket) -> bytes:
    with caller:
        try:
            return caller.recv(100).rstrip()
        except ConnectionError:
            return b""


def _short_of_processes(dispatcher: str) -> None:
    """A server that may have four threads or processes, and eight clients."""
    if os.getuid() != 0:
        raise NotImplementedError("only root can become somebody else, whose processes are counted")
    with ExitStack() as stack, Subject(dispatcher, "tcp://127.0.0.1:0", "--nobody", "4") as server:
        callers = [stack.enter_context(server.call()) for _ in range(8)]
        for caller in callers:
            caller.sendall(b"sleep 0.5\n")
        answers = [_answer(caller) for caller in callers]  # in turn: each leaves when it has it
        if b"slept" not in answers or set(answers) - {b"slept", b""}:
            raise Failure(f"the answers were {answers}")
        until(lambda: server.ask(b"canary") == b"canary", "it serves again", 5.0)


@scenario(6, "no thread to be had", on=THREADS - {"parked", "selector+pool"}, why="it starts no thread for a request")
def no_thread(dispatcher: str) -> None:
    """That client is let go at once, or waits for a thread that there is; nothing spins."""
    _short_of_processes(dispatcher)


@scenario(7, "no process to be had", on=frozenset({"fork"}), why="it forks no process for a request")
def no_process(dispatcher: str) -> None:
    """The same with children."""
    no_thread(dispatcher)


@scenario(8, "MemoryError, RecursionError", quick=True)
def out_of_memory(dispatcher: str) -> None:
    """The request fails, the server lives."""
    with Subject(dispatcher) as server:
        for order, words in ((b"memory", "MemoryError"), (b"recurse", "RecursionError")):
            if server.ask(order):
                raise Failure(f"{order!r} was answered")
            server.logged(words)
        server.expect()


@scenario(10, "a log that cannot be written", quick=True)
def log_full(dispatcher: str) -> None:
    """/dev/full, or a pipe that nobody reads any more: it goes on without."""
    with open("/dev/full", "wb") as full, Subject(dispatcher, stderr=full) as server:
        for _ in range(3):
            server.ask(b"raise")
            server.expect()
    reader, writer = os.pipe()
    with Subject(dispatcher, stderr=writer) as server:
        os.close(reader)
        os.close(writer)
        for _ in range(3):
            server.ask(b"raise")
            server.expect()


@scenario(26, "descriptors of a program that a handler starts", quick=True)
def exec_inherits_nothing(dispatcher: str) -> None:
    """Not one of the server's sockets, however carelessly it is started."""
    with Subject(dispatcher) as server:
        server.expect(b"exec", b"0")


@scenario(24, "the statuses of others' children", quick=True)
def foreign_children(dispatcher: str) -> None:
    """A program that a handler runs has the exit status that it has."""
    with Subject(dispatcher) as server:
        for _ in range(5):
            server.expect(b"child", b"7")
