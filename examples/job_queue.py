r"""A small job queue in one file of sqlite's: worker processes, retries, and what is left of jobs that always fail.

::

    python examples/job_queue.py work jobs.db 4                  # four worker processes, until Ctrl-C
    python examples/job_queue.py put jobs.db '{"numbers": [1, 2, 3]}'
    sqlite3 jobs.db "INSERT INTO jobs (payload) VALUES ('{\"numbers\": [4, 5]}')"
    python examples/job_queue.py show jobs.db

A job that raises comes again after 1, 2, 4 seconds; one whose worker is killed, when its lease has run out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from tricorn import Server
from tricorn.strategies import ProcessPool
from tricorn.transports import Table
from tricorn.transports.table import TableRow


def table(path: str) -> Table:
    """The one table of this queue; the file is made if there is none."""
    jobs = Table(f"sqlite:{path}", "jobs", lease=10.0, max_attempts=4, retry_delay=1.0)
    jobs.create()
    return jobs


def add_up(job: TableRow) -> None:
    """The handler: one call for each attempt, in a worker process."""
    job.result = sum(job.value["numbers"])


def work(path: str, workers: str = "2") -> None:
    """Serve until Ctrl-C or SIGTERM."""
    server = Server(table(path), ProcessPool(int(workers)), add_up)
    server.bind()
    print(f"working on {server.address}", flush=True)
    print(server.serve_forever(signals=True))


def put(path: str, payload: str) -> None:
    """Add a job."""
    print(f"job {table(path).put(json.loads(payload))}")


def show(path: str) -> None:
    """How many jobs are in which state."""
    for state, count in sorted(table(path).count().items()):
        print(f"{state:<8} {count}")


COMMANDS: dict[str, Callable[..., None]] = {"work": work, "put": put, "show": show}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
