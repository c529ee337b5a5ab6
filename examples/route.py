"""Counts the primes below a number: an answer that is known already in place, a new one in a forked child.

::

    python examples/route.py                        # on 127.0.0.1:9999
    echo 3000000 | nc -N 127.0.0.1 9999             # takes a while, in a process of its own
    echo 3000000 | nc -N 127.0.0.1 9999             # comes at once, from the server's own process

`Primes.choose` does the first part of every request, in the serving thread: it looks at the line, which it does not
consume, and whether the answer is on file.  `Primes.answer` is the handler, wherever it runs.  A slow client,
or one that says nothing, waits in a table and holds up nobody.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tricorn import Connection, Server
from tricorn.peeking import peek
from tricorn.strategies import Fork, Route, Sync
from tricorn.transports import TCP

#: A line is no longer than this, its end included.
MAX_LINE = 16
MOST = 50_000_000


def count_primes(below: int) -> int:
    """By the sieve of Eratosthenes."""
    sieve = bytearray([1]) * max(below, 2)
    sieve[0] = sieve[1] = 0
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, len(sieve), number)))
    return sum(sieve)


def read_number(line: bytes) -> int | None:
    """The number of a line; ``None`` for anything else."""
    text = line.strip()
    return int(text) if text.isdigit() and int(text) <= MOST else None


class Primes:
    """The service, and the folder in which children leave their answers: their memory ends with them."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def choose(self, connection: Connection) -> str | None:
        """In the serving thread; quick, and without blocking."""
        line, end, _ = peek(connection, MAX_LINE).partition(b"\n")
        if not end:
            return None  # ask again when more has come; refused if nothing more comes, or the line is too long
        number = read_number(line)
        known = number is None or (self.folder / str(number)).exists()
        return "light" if known else "heavy"

    def answer(self, connection: Connection) -> None:
        """The handler.  The whole line is there: `choose` has seen it."""
        number = read_number(connection.recv(MAX_LINE).partition(b"\n")[0])
        if number is None:
            connection.send(b"a whole number up to %d, please\n" % MOST)
            return
        connection.send(f"{self.look_up(number)} (process {os.getpid()})\n".encode())

    def look_up(self, number: int) -> str:
        """The answer on file, or a new one, which then is."""
        file = self.folder / str(number)
        if not file.exists():
            draft = file.with_suffix(f".{os.getpid()}")
            draft.write_text(str(count_primes(number)))
            draft.replace(file)  # whole, or not at all
        return file.read_text()


def main(port: int = 9999) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="primes-") as folder:
        primes = Primes(folder)
        route = Route(primes.choose, peek=MAX_LINE, light=Sync(), heavy=Fork(max_children=os.cpu_count() or 1))
        server = Server(TCP("127.0.0.1", port), route, primes.answer)
        server.bind()
        print("serving on {}:{}".format(*server.address), flush=True)
        print(server.serve_forever(signals=True))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
