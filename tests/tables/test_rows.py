"""Rows: leased, done, put back, dead; on sqlite and PostgreSQL alike."""

from __future__ import annotations

import json

import pytest

from tricorn.deadline import Deadline
from tricorn.errors import LeaseLost, PeerRefused, StateError
from tricorn.leases.statements import POSTGRESQL, SQLITE
from tricorn.testing import check_transport
from tricorn.transports import Table
from tricorn.transports.table import RowState

NEVER = Deadline(None)


def begin(row):
    """As a job does."""
    row.open(NEVER)
    return row


def test_it_keeps_the_laws_of_transports(counter) -> None:
    """The conformance kit's; a client is a row."""

    class Client:
        def close(self):
            pass

    def fresh() -> Table:
        table = counter.table(renew=False)
        counter.run("DELETE FROM {table}")
        return table

    def put(table, address):
        table.put("something to do")
        return Client()

    check_transport(fresh, connect=put)


def test_a_plain_insert_is_a_request(counter) -> None:
    """A producer needs no Tricorn; what wakes the server is the database's own."""
    _, listener = counter.open()
    with pytest.raises(BlockingIOError):
        listener.accept()
    counter.run("INSERT INTO {table} (payload) VALUES (%s)", '{"to": "ada"}')
    row = counter.accept(listener)
    assert (row.value, row.attempts, row.peer) == ({"to": "ada"}, 1, f"{counter.database.name}#{row.id}")
    row.finish(None)


def test_a_row_is_done_with_its_result(counter) -> None:
    """The result is JSON, and stays in the table."""
    table, listener = counter.open()
    number = table.put([1, 2])
    row = begin(counter.accept(listener))
    assert table.read(number).state == "leased"
    row.result = {"sum": sum(row.value)}
    row.finish(None)
    state = table.read(number)
    assert (state.state, state.attempts, json.loads(state.result), state.error) == ("done", 1, {"sum": 3}, None)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_rows_come_in_the_order_in_which_they_are_due(counter) -> None:
    """And those that were put in together in the order of their ids."""
    table, listener = counter.open()
    table.put("later", delay=0.2)
    counter.run("INSERT INTO {table} (payload) VALUES ('1'), ('2')")
    assert [begin(counter.accept(listener)).value for _ in range(3)] == [1, 2, "later"]


def test_a_failed_row_comes_again_later_and_is_dead_in_the_end(counter) -> None:
    """The error is in the row."""
    table, listener = counter.open(max_attempts=3, retry_delay=0.05)
    number = table.put("impossible")
    for attempt in (1, 2, 3):
        row = begin(counter.accept(listener))
        assert row.attempts == attempt
        row.finish(ValueError("it is impossible"))
        assert table.read(number).state == ("ready" if attempt < 3 else "dead")
    assert table.read(number) == RowState(number, "dead", 3, None, "ValueError: it is impossible")
    assert table.count() == {"dead": 1}


def test_the_delays_double_up_to_the_limit(counter) -> None:
    """1, 2, 4, 5 seconds: as the database has it."""
    table, listener = counter.open(retry_delay=1.0, max_retry_delay=5.0, max_attempts=9)
    number = table.put("impossible")
    now = (SQLITE if table.url.startswith("sqlite") else POSTGRESQL).now
    delays = []
    for _ in range(4):
        begin(counter.accept(listener)).finish(ValueError())
        ((delay,),) = counter.run(f"SELECT due - {now} FROM {{table}} WHERE id = {number}")
        delays.append(round(delay))
        counter.run(f"UPDATE {{table}} SET due = 0, state = 'ready' WHERE id = {number}")
    assert delays == [1, 2, 4, 5]


def test_a_handler_may_put_back_by_itself(counter) -> None:
    """With a delay of its own; what it raises afterwards changes nothing."""
    table, listener = counter.open()
    number = table.put("not yet")
    row = begin(counter.accept(listener))
    row.nack(0.05)
    row.finish(ValueError())
    assert table.read(number).error == "put back by its handler"
    assert begin(counter.accept(listener)).attempts == 2


def test_a_handler_may_acknowledge_by_itself_once(counter) -> None:
    """What it does afterwards can fail without the row coming again."""
    table, listener = counter.open()
    number = table.put("quick")
    row = begin(counter.accept(listener))
    row.ack()
    with pytest.raises(StateError, match="was acknowledged or put back before"):
        row.nack()
    row.finish(ValueError())
    assert table.read(number).state == "done"


def test_a_row_that_cannot_be_decoded_is_dead_at_once(counter) -> None:
    """The intake is told to count a refusal, and the next row follows."""
    table, listener = counter.open()
    counter.run("INSERT INTO {table} (payload) VALUES (%s)", '{"to": ')
    number = table.put("fine")
    with pytest.raises(PeerRefused, match=r"row \d+: cannot be decoded: JSONDecodeError: Expecting value") as refused:
        counter.accept(listener)
    broken = number - 1
    assert refused.value.peer == f"{counter.database.name}#{broken}"
    assert (table.read(broken).state, table.read(broken).attempts) == ("dead", 1)
    assert "cannot be decoded" in table.read(broken).error
    assert counter.accept(listener).value == "fine"


def test_json_that_is_too_deep_costs_itself_only(counter) -> None:
    """Whatever a decoder raises."""
    _, listener = counter.open()
    counter.run("INSERT INTO {table} (payload) VALUES (%s)", "[" * 200_000)
    with pytest.raises(PeerRefused, match="cannot be decoded"):
        counter.accept(listener)


@pytest.mark.parametrize(
    ("decode", "value"),
    [("text", "grüße"), ("bytes", "grüße".encode()), (lambda payload: len(payload), None), ("json", "grüße")],
)
def test_payloads_are_what_one_says(counter, decode, value) -> None:
    """JSON, text, bytes, or what a function makes of it."""
    _, listener = counter.open(decode=decode)
    counter.run("INSERT INTO {table} (payload) VALUES (%s)", '"grüße"' if decode == "json" else "grüße")
    got = counter.accept(listener).value
    assert got == value or (value is None and got in (5, 7))


def test_a_lease_that_runs_out_offers_the_row_again(counter) -> None:
    """Nobody looks for that: an alarm rings.  Whoever had it is told when it comes back."""
    table, listener = counter.open(lease=0.2, renew=False)
    number = table.put("slow")
    first = begin(counter.accept(listener))
    second = begin(counter.accept(listener))
    assert (first.attempts, second.attempts, second.id) == (1, 2, number)
    with pytest.raises(LeaseLost, match=rf"the lease of 0.2 s on row {number} ran out, and another worker may have it"):
        first.finish(None)
    second.finish(None)
    assert (table.read(number).state, table.read(number).attempts) == ("done", 2)


def test_a_row_whose_worker_dies_again_and_again_is_dead_too(counter) -> None:
    """It is never begun once more than ``max_attempts``."""
    table, listener = counter.open(lease=0.1, renew=False, max_attempts=2)
    number = table.put("deadly")
    assert [counter.accept(listener).attempts, counter.accept(listener).attempts] == [1, 2]
    with pytest.raises(PeerRefused, match="its lease ran out at attempt 2: its worker died"):
        counter.accept(listener)
    assert (table.read(number).state, table.read(number).attempts) == ("dead", 2)


def test_leases_are_renewed_while_the_handler_works(counter, until) -> None:
    """So a lease need not be as long as the longest handler."""
    table, listener = counter.open(lease=0.3)
    table.put("long")
    row = begin(counter.accept(listener))

    def due() -> float:
        return counter.run("SELECT due FROM {table}")[0][0]

    leased_until = due()
    until(lambda: due() > leased_until + 0.3)  # by now the first lease is over
    assert (row.lost, counter.run("SELECT attempts FROM {table}")) == (False, [(1,)])
    row.finish(None)
    assert table.count() == {"done": 1}


def test_a_renewal_that_comes_too_late_says_so(counter, until) -> None:
    """To a handler that asks, and to one that looks."""
    table, listener = counter.open(lease=0.3)
    table.put("stolen")
    row = begin(counter.accept(listener))
    counter.run("UPDATE {table} SET holder = 'somebody else'")
    until(lambda: row.lost)
    with pytest.raises(LeaseLost):
        row.renew()
    with pytest.raises(LeaseLost):
        row.finish(None)


def test_a_batch_is_leased_at_once_and_what_nobody_began_goes_back(counter) -> None:
    """At no cost: not even an attempt."""
    table, listener = counter.open(batch=4)
    for number in range(6):
        table.put(number)
    row = begin(counter.accept(listener))
    assert table.count() == {"leased": 4, "ready": 2}
    row.drain()
    assert table.count() == {"leased": 1, "ready": 5}
    assert counter.run("SELECT max(attempts) FROM {table} WHERE state = 'ready'") == [(0,)]
    begin(counter.accept(listener)).finish(None)
    row.finish(None)
    listener.close()
    assert table.count() == {"done": 2, "ready": 4}


def test_a_row_that_never_reached_its_handler_costs_no_attempt(counter) -> None:
    """It was refused; it goes back after a while, or at once where the server is leaving."""
    table, listener = counter.open(retry_delay=60.0)
    number = table.put("refused")
    row = counter.accept(listener)
    row.drain()
    row.finish(PermissionError("it could not be dispatched"))
    assert (table.read(number).state, table.read(number).attempts) == ("ready", 0)
    row = counter.accept(listener)
    row.finish(PermissionError("verify returned false"))
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_result_that_is_no_json_is_a_failure(counter) -> None:
    """The row is put back, since nobody has its result."""
    table, listener = counter.open()
    number = table.put("odd")
    row = begin(counter.accept(listener))
    row.result = object()
    with pytest.raises(TypeError, match="not JSON serializable"):
        row.finish(None)
    assert (table.read(number).state, table.read(number).error[:10]) == ("ready", "TypeError:")


def test_rows_that_are_done_can_be_deleted(counter) -> None:
    """Where nobody wants to know."""
    table, listener = counter.open(delete_done=True)
    number = table.put("gone")
    begin(counter.accept(listener)).finish(None)
    assert (table.read(number), table.count()) == (None, {})


def test_dead_rows_are_revived_by_hand(counter) -> None:
    """By one UPDATE, which wakes the server."""
    table, listener = counter.open(max_attempts=1)
    number = table.put("impossible today")
    begin(counter.accept(listener)).finish(ValueError())
    assert table.read(number).state == "dead"
    counter.run("UPDATE {table} SET state = 'ready', due = 0, attempts = 0 WHERE state = 'dead'")
    begin(counter.accept(listener)).finish(None)
    assert table.read(number).state == "done"


def test_two_listeners_never_have_the_same_row(counter) -> None:
    """Whoever asks first."""
    table, one = counter.open(batch=3)
    two = counter.listen(table)
    for number in range(12):
        table.put(number)
    got = [counter.accept(listener).value for _ in range(6) for listener in (one, two)]
    assert sorted(got) == list(range(12))


def test_creating_it_twice_changes_nothing(counter) -> None:
    """`create` makes what is missing."""
    table = counter.table()
    number = table.put("kept")
    table.create()
    assert table.read(number).state == "ready"
    assert "CREATE TABLE IF NOT EXISTS" in table.create_sql()
