"""C. Beginning, stopping, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from contextlib import ExitStack, suppress
from time import monotonic

from scenario import ONE_AT_A_TIME, POOLS, scenario
from subject import Failure, Subject, read_line, until

BLOCKS = "a function that blocks the loop holds up all, the stop too"


@scenario(
    28,
    "SIGTERM with requests in flight",
    but=ONE_AT_A_TIME | {"selector"},
    why="it has one request at a time",
    quick=True,
)
def sigterm_in_flight(dispatcher: str) -> None:
    """Each is answered, new clients are refused, and the exit status is 0."""
    with Subject(dispatcher) as server, ExitStack() as stack:
        callers = [stack.enter_context(server.call()) for _ in range(4)]
        for caller in callers:
            caller.sendall(b"echo\n")
            read_line(caller)
            caller.sendall(b"sleep 1.0\n")
        until(lambda: server.threads() >= 1, "it runs")
        server.signal(signal.SIGTERM)
        answers = [read_line(caller) for caller in callers]
        if answers != [b"slept"] * 4:
            raise Failure(f"in flight: {answers}")
        if server.wait(5.0) != 0:
            raise Failure(f"exit status {server.process.returncode}: {server.log()}")
        with suppress(ConnectionRefusedError), server.call(1.0):
            raise Failure("somebody still listens")


class Load(threading.Thread):
    """One client after the other, until they are refused; counts those that connected and got no answer."""

    def __init__(self, server: Subject) -> None:
        super().__init__()
        self.address, self.served, self.lost = server.address, 0, 0

    def run(self) -> None:
        while True:
            with socket.socket() as client:
                client.settimeout(10)
                try:
                    client.connect(self.address)
                except OSError:
                    return
                try:
                    client.sendall(b"a\n")
                    if client.recv(10) != b"a\n":
                        raise ConnectionError
                    self.served += 1
                except OSError:
                    self.lost += 1


@scenario(29, "SIGTERM under load", quick=True)
def sigterm_under_load(dispatcher: str) -> None:
    """Nobody is lost who got a connection."""
    for _ in range(3):
        with Subject(dispatcher) as server:
            load = [Load(server) for _ in range(8)]
            for each in load:
                each.start()
            until(lambda load=load: sum(each.served for each in load) > 50, "there is load")
            server.signal(signal.SIGTERM)
            status = server.wait(8.0)
            for each in load:
                each.join()
            lost = sum(each.lost for each in load)
            if lost or status:
                raise Failure(f"{lost} of {sum(each.served for each in load)} lost, exit status {status}")


@scenario(30, "an idle client at SIGTERM", quick=True)
def idle_at_sigterm(dispatcher: str) -> None:
    """Is let go at once."""
    with Subject(dispatcher) as server, ExitStack() as stack:
        server.expect()  # it serves
        silent = stack.enter_context(server.call())
        if dispatcher != "sync":
            talked = stack.enter_context(server.call())
            talked.sendall(b"a\n")
            read_line(talked)
        server.signal(signal.SIGTERM)
        began = monotonic()
        if server.wait(4.0) or monotonic() - began > 3.0 or silent.recv(1):
            raise Failure(f"it took {monotonic() - began:.1f} s, exit status {server.process.returncode}")


@scenario(31, "a handler that never returns, at SIGTERM", but=frozenset({"selector"}), why=BLOCKS, quick=True)
def stuck_at_sigterm(dispatcher: str) -> None:
    """It ends at its deadline, says who was left or cut, and not with 0."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--drain", "1") as server, server.call() as caller:
        caller.sendall(b"hang\n")
        until(lambda: _in_flight(server), "the handler runs")
        server.signal(signal.SIGTERM)
        began = monotonic()
        status = server.wait(5.0)
        took = monotonic() - began
        if not 0.8 < took < 4.0:
            raise Failure(f"it ended after {took:.1f} s")
        report = json.loads(server.hear("report")) if status != -signal.SIGKILL else {}
        if status == 0 or report.get("clean", True):
            raise Failure(f"exit status {status}, report {report}")


def _in_flight(server: Subject) -> bool:
    server.seen = getattr(server, "seen", monotonic())  # type: ignore[attr-defined]
    return bool(monotonic() - server.seen > 0.5)  # type: ignore[attr-defined]


@scenario(32, "SIGTERM twice, SIGINT twice", quick=True)
def signals_twice(dispatcher: str) -> None:
    """The second closes now."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with Subject(dispatcher, "tcp://127.0.0.1:0", "--drain", "10") as server, server.call() as caller:
            caller.sendall(b"sleep 6\n" if "selector" not in dispatcher else b"a\n")
            until(lambda server=server: _in_flight(server), "the handler runs")
            server.signal(number)
            server.seen = monotonic()  # type: ignore[attr-defined]
            until(lambda server=server: _in_flight(server), "the first has arrived")
            with suppress(OSError):
                server.signal(number)
            server.wait(5.0 if "fork" in dispatcher or "process" in dispatcher else 4.0)


@scenario(33, "SIGHUP under load", quick=True)
def sighup(dispatcher: str) -> None:
    """Is a reload: nobody is lost, and it goes on."""
    with Subject(dispatcher) as server:
        server.expect()
        load = [Load(server) for _ in range(4)]
        for each in load:
            each.start()
        for round_ in range(1, 3):
            server.signal(signal.SIGHUP)
            until(lambda n=round_: sum(each.served for each in load) > 60 * n, "it goes on")
        if any(each.lost for each in load):
            raise Failure(f"lost: {[each.lost for each in load]}")
        server.signal(signal.SIGTERM)
        if server.wait(8.0):
            raise Failure("not 0")
        for each in load:
            each.join()


@scenario(35, "an idle server stops", quick=True)
def stops_at_once(dispatcher: str) -> None:
    """And leaves nobody, and nothing."""
    with Subject(dispatcher) as server:
        server.expect()
        family = server.pids()
        server.signal(signal.SIGTERM)
        if server.wait(4.0):
            raise Failure(f"exit status {server.process.returncode}")
        left = [pid for pid in family if os.path.exists(f"/proc/{pid}/fd/0")]
        if left:
            raise Failure(f"processes are left: {left}")


@scenario(40, "workers leave under load", on=POOLS, why="there is no pool of processes")
def workers_leave(dispatcher: str) -> None:
    """Those that have served enough, one after the other; nobody is lost."""
    with Subject(dispatcher + "&max_jobs=50") as server:
        load = [Load(server) for _ in range(4)]
        for each in load:
            each.start()
        server.logged("was replaced: it served", 2)
        server.signal(signal.SIGTERM)
        server.wait(8.0)
        for each in load:
            each.join()
        if any(each.lost for each in load):
            raise Failure(f"lost: {[each.lost for each in load]} of {[each.served for each in load]}")
