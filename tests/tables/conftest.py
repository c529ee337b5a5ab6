"""The two databases: a file of sqlite's, and a PostgreSQL server that is started for the tests if one is installed."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from tricorn.testing.recorder import Recorder
from tricorn.transports import Table

#: Seconds after which something that does not come is a failure.
BOUND = 15.0


class Sqlite:
    """A file in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jobs.db"
        self.url = f"sqlite:{self.path}"
        self.name = "jobs"

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """As any program would, not through Tricorn."""
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=BOUND)
        try:
            return connection.execute(statement.replace("%s", "?"), parameters).fetchall()
        finally:
            connection.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While another program writes."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
        finally:
            connection.close()


class Postgres:
    """A table of its own on the one server."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """As any program would, not through Tricorn."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While another program changes the table itself."""
        import psycopg

        with psycopg.connect(self.url) as connection:
            connection.execute(f"LOCK TABLE {self.name} IN ACCESS EXCLUSIVE MODE")
            yield


def _programs() -> tuple[str, str] | None:
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    initdb, server = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    return (initdb, server) if initdb and server else None


def _somebody_else() -> dict[str, Any]:
    """PostgreSQL does not run as root."""
    if os.getuid():
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}


class Server:
    """A PostgreSQL server on a Unix socket."""

    def __init__(self, initdb: str, postgres: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="tricorn-pg-", dir="/tmp")
        self.data = f"{self.folder}/data"
        self.url = f"postgresql://tricorn:geheim@/postgres?host={self.folder}"
        self._as = _somebody_else()
        self._postgres = postgres
        if self._as:
            os.chown(self.folder, self._as["user"], self._as["group"])
        make = [initdb, "-D", self.data, "-U", "tricorn", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]
        subprocess.run(make, check=True, capture_output=True, cwd=self.folder, timeout=120, **self._as)

    def start(self) -> None:
        """Returns once one can connect."""
        import psycopg

        command = [self._postgres, "-D", self.data, "-k", self.folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        with open(f"{self.folder}/log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as)
        limit = monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or monotonic() > limit:
                    raise
                sleep(0.02)

    def stop(self) -> None:
        """Cut every connection, and end."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


@pytest.fixture(scope="session", autouse=True)
def server_or_reason() -> Iterator[Server | str]:
    """The server, started before any test looks for what it leaves behind; or why there is none."""
    programs = _programs()
    if programs is None:
        yield "there is no PostgreSQL server here: no initdb and postgres on PATH or in /usr/lib/postgresql"
    elif importlib.util.find_spec("psycopg") is None:
        yield "the extra 'postgres' is not installed"
    else:
        server = Server(*programs)
        try:
            server.start()
            yield server
            server.stop()
        finally:
            shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def postgres_server(server_or_reason: Server | str) -> Server:
    """The server; a test that asks for it is skipped where there is none."""
    if isinstance(server_or_reason, str):
        pytest.skip(server_or_reason)
    return server_or_reason


@pytest.fixture
def own_server(postgres_server: Server, nothing_left_behind: None) -> Iterator[Server]:
    """One more, which the test may stop and start."""
    programs = _programs()
    assert programs is not None
    server = Server(*programs)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(server.folder, ignore_errors=True)


_numbers = itertools.count(1)


@pytest.fixture
def sqlite(tmp_path: Path) -> Sqlite:
    """A database that does not exist yet."""
    folder = tmp_path / "database"
    folder.mkdir()
    return Sqlite(folder)


@pytest.fixture
def postgres(postgres_server: Server) -> Postgres:
    """A table that does not exist yet."""
    return Postgres(postgres_server.url, f"jobs{next(_numbers)}")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Any:
    """One after the other."""
    return request.getfixturevalue(request.param)


class Counter:
    """Makes tables in ``database``, listens, and closes at the end."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.listeners: list[Any] = []

    def table(self, **options: Any) -> Table:
        """It exists.  Nothing is found by looking now and then, unless the test wants that."""
        options.setdefault("look_every", 3600.0)
        table = Table(self.database.url, self.database.name, **options)
        table.create()
        return table

    def listen(self, table: Table) -> Any:
        """Its listener."""
        (listener,) = table.listen()
        self.listeners.append(listener)
        return listener

    def open(self, **options: Any) -> tuple[Table, Any]:
        """A table and its listener."""
        table = self.table(**options)
        return table, self.listen(table)

    def accept(self, listener: Any) -> Any:
        """The next row, once there is one."""
        limit = monotonic() + BOUND
        while monotonic() < limit:
            select.select([listener], [], [], max(0.0, limit - monotonic()))
            try:
                return listener.accept()
            except BlockingIOError:
                continue
        raise AssertionError(f"no row within {BOUND} s")

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """SQL with {table} in it."""
        return self.database.run(statement.format(table=self.database.name), *parameters)


@pytest.fixture
def counter(database: Any, nothing_left_behind: None) -> Iterator[Counter]:
    """On each of the databases."""
    counter = Counter(database)
    yield counter
    for listener in counter.listeners:
        listener.close()


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()


class Until:
    """Waits for what a database cannot tell us."""

    bound = BOUND

    def __call__(self, true: Any) -> Any:
        """The first result of ``true()`` that is true."""
        limit = monotonic() + self.bound
        while not (result := true()):
            if monotonic() > limit:
                raise AssertionError(f"not within {self.bound} s")
            sleep(0.005)
        return result


@pytest.fixture
def until() -> Until:
    """`Until`."""
    return Until()
