"""Rows a second that do nothing, from a table of sqlite's or PostgreSQL's, under a few dispatchers.

::

    python benchmarks/table_rows.py                                        # sqlite, in a temporary folder
    python benchmarks/table_rows.py 'postgresql://user:password@host/db'   # in a table of its own, which is dropped

The time is from the start of the server until every row is done; starting the processes is part of it.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from time import monotonic, sleep

from tricorn import Server
from tricorn.transports import Table

NAME = "tricorn_benchmark"
RUNS = (
    ("sync", 1, 5000), ("sync", 16, 5000),
    ("process-pool?workers=10", 1, 5000), ("process-pool?workers=10", 16, 5000),
    ("fork?max_children=8", 1, 300),
)  # fmt: skip


def nothing(row: object) -> None:
    """The handler."""


def execute(url: str, *statements: str) -> None:
    """In one transaction, as a producer would."""
    if url.startswith("sqlite:"):
        connection = sqlite3.connect(url.removeprefix("sqlite:"))
    else:
        import psycopg

        connection = psycopg.connect(url)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def rate(url: str, dispatcher: str, batch: int, rows: int) -> float:
    """Rows a second."""
    table = Table(url, NAME, batch=batch, decode="text")
    table.create()
    values = ", ".join(f"('{number}')" for number in range(rows))
    execute(url, f"DELETE FROM {NAME}", f"INSERT INTO {NAME} (payload) VALUES {values}")
    began = monotonic()
    with Server(table, dispatcher, nothing, log=False) as server:
        server.start()
        while table.count() != {"done": rows}:
            sleep(0.02)
        return rows / (monotonic() - began)


def main(url: str) -> None:
    """A line for each run."""
    for dispatcher, batch, rows in RUNS:
        print(f"{dispatcher:<26} batch {batch:>2}   {rate(url, dispatcher, batch, rows):>7.0f} rows/s", flush=True)
    execute(url, f"DROP TABLE {NAME}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"sqlite:{folder}/jobs.db")
