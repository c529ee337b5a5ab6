"""Out of descriptors: a server in a program of its own, under a limit that it reaches."""

from __future__ import annotations

import json
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

PROGRAM = """
    import json, resource, sys
    from tricorn import *
    from tricorn.events import AcceptPaused
    from tricorn.handlers import Lines, message
    from tricorn.strategies import *
    from tricorn.transports import TCP, UnixStream

    def echo(connection):
        while data := connection.recv(100):
            connection.send(data)

    @message(Lines())
    def echo_line(line):
        return line

    async def echo_later(connection):
        async for data in connection:
            await connection.send(data)

    class Watch:
        events = frozenset({AcceptPaused})

        def __call__(self, event):
            print(json.dumps(["paused", event.error.errno, event.suppressed]), flush=True)

    dispatcher, handler, admission, limit = sys.argv[1:]
    server = Server(
        TCP("127.0.0.1", 0), eval(dispatcher), eval(handler), observers=[Watch()], log=False, admission=eval(admission)
    )
    server.bind()
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
    print(json.dumps(["port", server.address[1]]), flush=True)
    report = server.serve_forever(signals=True)
    print(json.dumps(["end", report.accepted, report.completed, report.refused, server.refusals()]), flush=True)
"""
CLIENTS = 80
EMFILE = 24

#: With a limit that leaves room for some of the clients, beside what the dispatcher needs for itself.
EVERY = {
    "Thread": ("Thread()", "echo", 48),
    "ThreadPool": ("ThreadPool(8)", "echo", 70),
    "Fork": ("Fork(100)", "echo", 48),
    "ProcessPool": ("ProcessPool(1, inner=Thread())", "echo", 48),
    "Selector": ("Selector()", "echo_line", 48),
    "park_idle": ("ThreadPool(2, park_idle=True)", "echo_line", 48),
    "Asyncio": ("Asyncio()", "echo_later", 48),
}
every = pytest.mark.parametrize(("dispatcher", "handler", "limit"), EVERY.values(), ids=EVERY)


class Program:
    """The server, and what it tells."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address = ("127.0.0.1", self.hear("port")[1])

    def hear(self, what: str) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if (told := json.loads(line))[0] == what:
                return told
        raise AssertionError(f"it ended before it said {what!r}")

    def end(self) -> Any:
        self.process.terminate()
        told = self.hear("end")
        _, errors = self.process.communicate(timeout=20)
        assert (errors, self.process.returncode) == ("", 0)
        return told


@pytest.fixture
def connect() -> Iterator[Callable[[Program], socket.socket]]:
    with ExitStack() as opened:
        yield lambda program: opened.enter_context(socket.create_connection(program.address, timeout=20))


def ask(client: socket.socket) -> str:
    """What becomes of a client that says hello."""
    try:
        client.sendall(b"hello\n")
        return client.recv(100).decode().strip()
    except ConnectionError:
        return "reset"


@every
def test_waiting(dispatcher: str, handler: str, limit: int, script: Any, connect: Any) -> None:
    """By default nobody is lost: accepting pauses, with ten tries a second at most, and goes on when there are
    descriptors again; those inside are served meanwhile."""
    program = Program(script(PROGRAM, dispatcher, handler, "Admission()", limit))
    clients = [connect(program) for _ in range(CLIENTS)]
    if dispatcher != "ThreadPool(8)":  # whose eight are busy before the descriptors end
        assert program.hear("paused")[1] == EMFILE
        told = program.hear("paused")
        assert told[1] == EMFILE
        assert told[2] <= 11  # suppressed in a second and a tenth
    for client in clients:
        assert ask(client) == "hello"
        assert ask(client) == "hello"
        client.close()
    assert ask(connect(program)) == "hello"
    _, accepted, completed, refused, refusals = program.end()
    assert (accepted, completed, refused, refusals) == (CLIENTS + 1, CLIENTS + 1, 0, {})


@every
@pytest.mark.parametrize(("policy", "answer"), [("Reject(b'busy')", "busy"), ("Drop()", "reset")])
def test_turning_away(
    dispatcher: str, handler: str, limit: int, policy: str, answer: str, script: Any, connect: Any
) -> None:
    """Where the policy is to turn away, whoever cannot be let in for want of a descriptor is told at once, on one that
    was kept for it; those inside go on, and there is room again as soon as they leave."""
    program = Program(script(PROGRAM, dispatcher, handler, f"Admission(when_full={policy})", limit))
    answers: Counter[str] = Counter()
    comers, clients = [], []
    for _ in range(CLIENTS):
        try:
            comers.append(connect(program))
        except ConnectionResetError:  # so soon
            answers["reset"] += 1
    for client in comers:
        answers[said := ask(client)] += 1
        if said == "hello":
            clients.append(client)
        else:
            client.close()
    assert set(answers) == {"hello", answer}
    assert answers["hello"] >= 5
    assert answers[answer] >= 5
    for client in clients:
        assert ask(client) == "hello"
        client.close()
    assert "hello" in (_knock(program) for _ in range(1000))
    _, accepted, completed, refused, refusals = program.end()
    assert accepted == completed + refused
    assert sum(refusals.values()) == refused
    assert refusals.keys() <= {"out of descriptors", "full"}


def _knock(program: Program) -> str:
    try:
        with socket.create_connection(program.address, timeout=20) as client:
            return ask(client)
    except ConnectionError:
        return "reset"
