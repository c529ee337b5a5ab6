"""A worker's books, and what the parent makes of a worker that writes nonsense."""

from __future__ import annotations

import socket

import pytest

from tricorn.board import Board
from tricorn.events import JobFinished, Outcome, Stage, Status
from tricorn.report import Report, receive_report
from tricorn.wire import decode_event, encode_event

NONSENSE = [
    b"",
    b"\xff",
    b"{",
    b"[" * 100_000,
    b'{"JobFinished": {"outcome": 5}}',
    b'{"JobFinished": {"outcome": {"JobInfo": [24, "toy"]}}}',
    b'{"JobFinished": {}}',
    b"5",
    b'{"JobFinished": {"outcome": {"Outcome": {"id": 1, "status": "x", "stage": 1, "peer": 1, "local": 0, "age": 2}}}}',
    b'{"Unheard": {}}',
    b'{"a": {}, "b": {}}',
    b'{"bytes": 5}',
    b'{"OSError": 5}',
    b'{"RemoteError": {"a": 1}}',
]


#: What cannot even be decoded.
NO_RECORDS = [each for each in NONSENSE if each != b"5" and (b"Finished" not in each or b"{}" in each)]


def test_nonsense_costs_nothing_but_itself() -> None:
    """Whoever supervises goes on, and is told what comes after it."""
    board = Board(1, 4)
    try:
        good = JobFinished(Outcome(7, Status.COMPLETED, Stage.CLOSE, None, None, 0.5, None, ""))
        for packet in NONSENSE:
            board._writer.send(packet)
            board.send(good)
            assert board.receive() == [good]
        assert board.told == {7: Status.COMPLETED}
    finally:
        board.close()


@pytest.mark.parametrize(
    "packet", [each for each in NONSENSE if each != b"5" and (b"Finished" not in each or b"{}" in each)]
)
def test_only_one_error(packet: bytes) -> None:
    """What is no record of ours raises `ValueError`."""
    with pytest.raises(ValueError, match="."):
        decode_event(packet)


def test_there_and_back() -> None:
    """A record arrives as it was."""
    event = JobFinished(Outcome(7, Status.FAILED, Stage.HANDLER, ("::1", 5, 0, 0), None, 0.5, None, "d"))
    assert decode_event(encode_event(event)) == event


def test_nonsense_in_place_of_a_report() -> None:
    """Of a forked child: too short is none, and too deep is no report."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.send(b"abc")
        assert receive_report(ours) is None
        for text in (b"[" * 50_000, b"5", b"{}", b'{"status": [], "stage": 1, "detail": 2}'):
            with pytest.raises(ValueError, match="report|Expecting|valid"):
                Report.decode(text)
