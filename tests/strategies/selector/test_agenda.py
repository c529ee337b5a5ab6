"""The timers of a loop: on time, movable, and they hold nobody who has left."""

from __future__ import annotations

import gc
import socket

from hypothesis import given
from hypothesis import strategies as st

from tricorn import Server
from tricorn.agenda import SLOT_S, Agenda
from tricorn.handlers import Lines, message
from tricorn.peers import Peer
from tricorn.strategies import Selector
from tricorn.transports import TCP


class Member:
    slot = 0


def test_in_their_order_and_neither_early_nor_late() -> None:
    """To a slot's length."""
    agenda = Agenda()
    first, second = Member(), Member()
    agenda.enter(second, 20.0)
    agenda.enter(first, 10.0)
    assert agenda.due(9.99) == []
    pause = agenda.pause(9.99)
    assert pause is not None
    assert 0.01 <= pause <= 0.01 + SLOT_S + 1e-9
    assert agenda.due(10.0 + 1.01 * SLOT_S) == [first]
    assert first.slot == 0
    assert agenda.due(30.0) == [second]
    assert agenda.pause(30.0) is None


def test_the_earliest_look_counts() -> None:
    """A later one changes nothing, an earlier one takes its place."""
    agenda, one = Agenda(), Member()
    agenda.enter(one, 10.0)
    agenda.enter(one, 20.0)
    agenda.enter(one, 5.0)
    assert agenda.due(5.0 + 1.01 * SLOT_S) == [one]
    assert agenda.due(100.0) == []


def test_who_leaves_is_forgotten() -> None:
    """And no slot is waited for in which nobody is left; leaving twice is once."""
    agenda, one = Agenda(), Member()
    agenda.enter(one, 10.0)
    agenda.leave(one)
    agenda.leave(one)
    assert agenda.due(1.0) == []
    assert agenda.pause(1.0) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["enter", "leave"]), st.floats(0, 5))))
def test_as_a_table_of_times_would(steps: list[tuple[int, str, float]]) -> None:
    """Whatever is entered, moved and left: each is due once, by its earliest time."""
    agenda, members, expected = Agenda(), [Member() for _ in range(5)], dict[int, float]()
    for which, what, at in steps:
        if what == "enter":
            agenda.enter(members[which], at)
            expected[which] = min(at, expected.get(which, at))
        else:
            agenda.leave(members[which])
            expected.pop(which, None)
    early = {members.index(each) for each in agenda.due(2.0)}
    assert early <= {which for which, at in expected.items() if at <= 2.0}
    assert early >= {which for which, at in expected.items() if at <= 2.0 - 1.01 * SLOT_S}
    assert {members.index(each) for each in agenda.due(6.0)} == expected.keys() - early


def test_short_connections_are_forgotten_at_once() -> None:
    """Their first deadline is ten seconds away, and must not keep them until then."""

    @message(Lines())
    def echo(line: bytes) -> bytes:
        return line

    with Server(TCP("127.0.0.1", 0), Selector(), echo) as server:
        server.start()
        for _ in range(100):
            with socket.create_connection(server.address, 10) as client:
                client.sendall(b"a\n")
                assert client.recv(10) == b"a\n"
                client.shutdown(socket.SHUT_WR)
                assert client.recv(10) == b""
        gc.collect()
        assert sum(type(each) is Peer for each in gc.get_objects()) <= 1
