"""A worker's books, and what the parent makes of a worker that writes nonsense."""

from __future__ import annotations

import pytest

from tricorn.board import Board
from tricorn.events import JobFinished, Outcome, Stage, Status
from tricorn.wire import decode_event, encode_event

NONSENSE = [
    b"",
    b"\xff",
    b"{",
    b"[" * 100_000,
    b'{"JobFinished": {"outcome": 5}}',
    b'{"JobFinished": {"outcome": {"JobInfo": [24, "toy"]}}}',
    b'{"JobFinished": {}}',
    b'{"Unheard": {}}',
    b'{"a": {}, "b": {}}',
    b'{"bytes": 5}',
    b'{"OSError": 5}',
    b'{"RemoteError": {"a": 1}}',
]


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


@pytest.mark.parametrize("packet", [each for each in NONSENSE if b"Finished" not in each or b"{}" in each])
def test_only_one_error(packet: bytes) -> None:
    """What is no record of ours raises `ValueError`."""
    with pytest.raises(ValueError, match="."):
        decode_event(packet)


def test_there_and_back() -> None:
    """A record arrives as it was."""
    event = JobFinished(Outcome(7, Status.FAILED, Stage.HANDLER, ("::1", 5, 0, 0), None, 0.5, None, "d"))
    assert decode_event(encode_event(event)) == event
