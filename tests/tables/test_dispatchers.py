"""Every dispatcher works a table: in this process or another, to the end or to a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tricorn import Server
from tricorn.events import JobFinished, JobRefused, JobStarted, Status
from tricorn.handlers import Chunks, message
from tricorn.strategies import Asyncio, Executor, Fork, ProcessPool, Route, Selector, Sync, Thread, ThreadPool
from tricorn.transports import TCP, Table

every_dispatcher = pytest.mark.parametrize(
    "dispatcher",
    [Sync, lambda: Thread(3), lambda: ThreadPool(3), lambda: Fork(3), lambda: ProcessPool(2),
     lambda: ProcessPool(2, inner=ThreadPool(2))],
    ids=["Sync", "Thread", "ThreadPool", "Fork", "ProcessPool", "ProcessPool-ThreadPool"],
)  # fmt: skip


def work(row) -> None:
    if row.value == "impossible":
        raise ValueError("it is")
    row.result = row.attempts


class Work:
    """The same as a request-handler class."""

    def __init__(self, request, client_address, server) -> None:
        if request == "impossible":
            raise ValueError(client_address)


@every_dispatcher
def test_rows_are_done_or_dead(dispatcher, counter, recorder, until) -> None:
    """Those that wait at the start, and those that come later, which nobody looks for."""
    table = counter.table(max_attempts=2, retry_delay=0.01)
    numbers = [table.put(n) for n in range(8)]
    with Server(table, dispatcher(), work, log=False, observers=[recorder]) as server:
        server.start()
        until(lambda: table.count() == {"done": 8})
        dead = table.put("impossible")
        until(lambda: table.read(dead).state == "dead")
        counter.run("INSERT INTO {table} (payload) VALUES ('{{')")
        recorder.wait(JobRefused)
        report = server.drain()
    assert table.count() == {"done": 8, "dead": 2}
    assert {table.read(number).result for number in numbers} == {"1"}
    assert table.read(dead).error == "ValueError: it is"
    assert (report.accepted, report.completed, report.failed, report.refused) == (11, 8, 2, 1)
    failed = [told.outcome for told in recorder.of(JobFinished) if told.outcome.status is Status.FAILED]
    assert [outcome.peer for outcome in failed] == [f"{counter.database.name}#{dead}"] * 2


@every_dispatcher
def test_a_class_gets_the_value(dispatcher, counter, until) -> None:
    """As its request; the row's name is the client's address."""
    table = counter.table(max_attempts=1)
    with Server(table, dispatcher(), Work, log=False) as server:
        server.start()
        numbers = [table.put("washing up"), table.put("impossible")]
        until(lambda: table.count() == {"done": 1, "dead": 1})
    assert table.read(numbers[1]).error == f"ValueError: {counter.database.name}#{numbers[1]}"


@every_dispatcher
def test_a_drain_finishes_what_was_begun_and_puts_back_the_rest(dispatcher, counter, recorder, until) -> None:
    """Nothing is left leased."""
    table = counter.table(batch=3)
    for number in range(30):
        table.put(number)
    with Server(table, dispatcher(), lambda row: time.sleep(0.02), log=False, observers=[recorder]) as server:
        server.start()
        until(lambda: table.count().get("done", 0) >= 2)
        report = server.drain()
    assert report.clean
    count = table.count()
    assert count == {"done": report.completed, "ready": 30 - report.completed}
    assert counter.run("SELECT max(attempts) FROM {table} WHERE state = 'ready'") == [(0,)]


@pytest.mark.parametrize("dispatcher", [lambda: Fork(2), lambda: ProcessPool(1)], ids=["Fork", "ProcessPool"])
def test_a_row_whose_process_is_killed_is_done_by_another(dispatcher, counter, recorder, until, tmp_path) -> None:
    """Once its lease has run out."""
    table = counter.table(lease=0.5)

    def fatal(row) -> None:
        if row.attempts == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with Server(table, dispatcher(), fatal, log=False, observers=[recorder]) as server:
        server.start()
        number = table.put("fatal")
        until(lambda: table.read(number).state == "done")
        report = server.drain()
    assert (table.read(number).attempts, report.lost, report.completed) == (2, 1, 1)


def test_a_row_in_the_hands_of_a_handler_at_the_deadline_comes_again(counter, recorder, until) -> None:
    """A thread cannot be killed; its lease is renewed no more."""
    table = counter.table(lease=0.5)
    with Server(table, ThreadPool(1), lambda row: time.sleep(1.0), log=False, observers=[recorder]) as server:
        server.start()
        number = table.put("long")
        recorder.wait(JobStarted)
        report = server.drain(0.05)
    assert len(report.abandoned) == 1
    listener = counter.listen(table)
    assert counter.accept(listener).attempts == 2 or table.read(number).state == "done"


def test_no_connection_of_sqlite_is_open_when_a_child_is_forked(sqlite, recorder, until) -> None:
    """Its locks would seem to be the child's: a way to corrupt the file."""
    table = Table(sqlite.url)
    table.create()

    def look(row) -> None:
        opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd not in ("0", "1", "2")
                  and os.path.exists(f"/proc/self/fd/{fd}")]  # fmt: skip
        row.result = [path for path in opened if path.startswith(str(sqlite.path))]

    with Server(table, Fork(2), look, log=False) as server:
        server.start()
        numbers = [table.put(n) for n in range(5)]
        until(lambda: table.count() == {"done": 5})
    assert {table.read(number).result for number in numbers} == {"[]"}
    assert sqlite.run("PRAGMA integrity_check") == [("ok",)]


def test_a_table_and_a_port_are_served_by_one_server(counter, until) -> None:
    """Transports of all kinds go together."""

    def serve(request) -> None:
        if hasattr(request, "send"):
            request.send(b"hello")

    table = counter.table()
    with Server([TCP("127.0.0.1", 0), table], ThreadPool(2), serve, log=False) as server:
        server.start()
        with socket.create_connection(server.addresses[0], timeout=10) as client:
            assert client.recv(100) == b"hello"
        table.put("hello")
        until(lambda: table.count() == {"done": 1})


def test_single_requests(counter) -> None:
    """`Server.handle_request` takes one row, or finds none in time."""
    table = counter.table()
    with Server(table, Sync(), work, log=False) as server:
        assert not server.handle_request(timeout=0.01)
        number = table.put(1)
        assert server.handle_request(timeout=10)
    assert table.read(number).state == "done"


def test_rows_are_handed_to_other_processes(counter, until) -> None:
    """A pool that is given single requests: the ticket travels, and the payload stays in the table."""
    table = counter.table()
    with Server(table, ProcessPool(2), work, log=False) as server:
        numbers = [table.put("x" * 500_000), table.put("impossible")]
        assert all(server.handle_request(timeout=10) for _ in numbers)
        until(lambda: table.read(numbers[0]).state == "done" and table.read(numbers[1]).error)
        report = server.drain()
    assert table.read(numbers[1]).error == "ValueError: it is"
    assert (report.completed, report.failed) == (1, 1)


async def work_slowly(row) -> None:
    await asyncio.sleep(0)
    work(row)


def test_coroutines(counter, until) -> None:
    """On an event loop; the database is asked elsewhere."""
    table = counter.table(max_attempts=2, retry_delay=0.01)
    with Server(table, Asyncio(), work_slowly, log=False) as server:
        server.start()
        numbers = [table.put(1), table.put(2), table.put("impossible")]
        until(lambda: table.count() == {"done": 2, "dead": 1})
    assert [table.read(number).attempts for number in numbers] == [1, 1, 2]


@message(Chunks())
def weigh(payload: bytes) -> None:
    if payload == b"impossible":
        raise ValueError("it is")


@pytest.mark.parametrize(
    "dispatcher", [Selector, lambda: Selector(then=ThreadPool(2)), Asyncio, lambda: Executor(ThreadPoolExecutor(2)),
                   lambda: ThreadPool(2), lambda: Fork(2)],
    ids=["Selector", "Selector-ThreadPool", "Asyncio", "Executor", "ThreadPool", "Fork"],
)  # fmt: skip
def test_message_handlers(dispatcher, counter, until) -> None:
    """A row's bytes are one message; nobody waits for a reply."""
    table = counter.table(decode="bytes", max_attempts=1)
    with Server(table, dispatcher(), weigh, log=False) as server:
        server.start()
        counter.run("INSERT INTO {table} (payload) VALUES ('possible'), ('impossible')")
        until(lambda: table.count() == {"done": 1, "dead": 1})


@pytest.mark.parametrize("heavy", [lambda: ThreadPool(2), lambda: Fork(2), lambda: ProcessPool(2)],
                         ids=["ThreadPool", "Fork", "ProcessPool"])  # fmt: skip
def test_routes(heavy, counter, until) -> None:
    """Light rows in place, heavy ones elsewhere: by what is in them."""
    table = counter.table(max_attempts=2, retry_delay=0.01)
    route = Route(lambda row: "light" if row.value == 1 else "heavy", light=Sync(), heavy=heavy())
    with Server(table, route, work, log=False) as server:
        server.start()
        for value in (1, 2, 1, "impossible", 2):
            table.put(value)
        until(lambda: table.count() == {"done": 4, "dead": 1})
