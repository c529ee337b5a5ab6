"""Many processes work one table, and some are killed: nothing is lost, and only what they had in hand is done twice."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from tricorn import Server
from tricorn.events import WorkerEnded, WorkerStarted
from tricorn.strategies import ProcessPool


def put_many(database, name: str, count: int) -> None:
    """In one transaction."""
    values = ", ".join(f"('{number}')" for number in range(count))
    database.run(f"INSERT INTO {name} (payload) VALUES {values}")


class Diary:
    """Who did which row: one line each, which a process that is killed has written or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def write(self, row) -> None:
        """The handler."""
        with open(self.path, "ab", buffering=0) as diary:
            diary.write(b"%d %d\n" % (row.value, os.getpid()))

    def read(self) -> dict[int, list[int]]:
        """The processes that did each row, in their order."""
        done = defaultdict(list)
        for line in self.path.read_text().splitlines():
            number, pid = map(int, line.split())
            done[number].append(pid)
        return done


def work_off(counter, recorder, until, folder: Path, *, rows: int, workers: int, kill: int, batch: int) -> None:
    """Kills ``kill`` of the workers when some rows are done, and looks at the diary in the end."""
    table = counter.table(lease=2.0, batch=batch, decode=int)
    put_many(counter.database, counter.database.name, rows)
    diary = Diary(folder / "diary")
    with Server(table, ProcessPool(workers), diary.write, log=False, observers=[recorder]) as server:
        server.start()
        until(lambda: len(diary.path.read_bytes()) > 20 * rows // 10 // 4)
        victims = [started.pid for started in recorder.wait(WorkerStarted, workers)[:kill]]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        until(lambda: table.count() == {"done": rows})
        report = server.drain()
    done = diary.read()
    assert sorted(done) == list(range(rows))
    assert {ended.pid for ended in recorder.of(WorkerEnded) if not ended.expected} == set(victims)
    twice = {number: pids for number, pids in done.items() if len(pids) > 1}
    assert all(len(pids) == 2 and pids[0] in victims and pids[1] not in victims for pids in twice.values()), twice
    assert len(twice) <= kill  # a row is written down, and acknowledged: there is one of these at a time
    begun_more_than_once = counter.run("SELECT count(*) FROM {table} WHERE attempts > 1")[0][0]
    assert len(twice) <= begun_more_than_once <= kill * batch
    assert report.completed + report.lost >= rows


@pytest.mark.parametrize("batch", [1, 8])
def test_a_few_workers_of_which_one_is_killed(counter, recorder, until, tmp_path, batch) -> None:
    """Small enough for each change."""
    work_off(counter, recorder, until, tmp_path, rows=600, workers=3, kill=1, batch=batch)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ten_workers_on_ten_thousand_rows_of_which_two_are_killed(counter, recorder, until, tmp_path) -> None:
    """Every row is done at least once; what was done twice was in the hands of who died."""
    until.bound = 60.0
    work_off(counter, recorder, until, tmp_path, rows=10_000, workers=10, kill=2, batch=8)
