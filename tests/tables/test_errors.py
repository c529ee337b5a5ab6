"""What is wrong with a table, said before anything is served; and what happens while its database is away."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import sys
import tempfile
import threading
import traceback

import pytest

from tricorn import Server, names
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, ListenError, SourceUnavailable
from tricorn.events import AcceptPaused, JobFinished
from tricorn.transports import Table

URL = "postgresql://ada:gehe%2Fim@db.example:5432/shop"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://localhost/shop", "url must be the URL of a database: sqlite:/path/to/file.db, or postgresql://"),
        ("jobs.db", "url must be the URL of a database"),
        ("sqlite:", "the path is missing"),
        ("sqlite://jobs.db", "a path has no host; write one slash, or three"),
        ("sqlite::memory:", "what is in memory cannot be shared by processes"),
        ("sqlite:/jobs.db?mode=ro", "without options"),
        ("postgresql:shop", "a URL of libpq: postgresql://user:password@host:port/database"),
        (None, "a text like sqlite:"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url, words) -> None:
    """When the transport is built, and with what would work."""
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        Table(url)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "jobs; DROP TABLE jobs"}, "table must be a name of ASCII letters"),
        ({"table": ""}, "table must be a name"),
        ({"lease": 0}, "lease must be seconds, from 0.1 to 86400"),
        ({"lease": float("nan")}, "lease must be seconds"),
        ({"batch": 0}, "batch must be a whole number from 1 to 10000"),
        ({"max_attempts": 0}, "max_attempts must be a whole number, 1 or more"),
        ({"retry_delay": -1}, "retry_delay must be seconds, from 0"),
        ({"decode": "yaml"}, 'decode must be "json", "text", "bytes", or a function'),
        ({"renew": 1}, "renew must be True or False"),
    ],
)
def test_options_are_checked(options, words) -> None:
    """One sentence each."""
    with pytest.raises(ConfigurationError, match=words):
        Table("sqlite:/jobs.db", **options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql://ada:...@db.example:5432/shop"),
        ("postgresql://ada:p@ss@db/shop", "postgresql://ada:...@db/shop"),
        ("postgresql:///shop?user=ada&password=geheim&port=1", "postgresql:///shop?user=ada&password=...&port=1"),
        ("postgresql://ada@db/shop", "postgresql://ada@db/shop"),
    ],
)
def test_a_password_is_never_shown(url, shown) -> None:
    """Not in the repr, the address, the server's."""
    pytest.importorskip("psycopg")
    table = Table(url)
    server = Server(table, "sync", print)
    for text in (repr(table), table.address, repr(server)):
        assert "gehe" not in text
        assert "p@ss" not in text
    assert repr(table).startswith(f"Table(url='{shown}'")


@pytest.mark.parametrize(
    "text",
    [
        "table+postgresql://ada:geheim@db/shop?tabel=x",
        "table+postgresql://ada:geheim@db/shop?batch=many",
        "table+postgresql:///shop%3Fuser=ada%26password=geheim?batch=0",
        "table+postgresql:ada:geheim@db/shop",
    ],
)
def test_a_text_that_is_wrong_is_quoted_without_its_password(text) -> None:
    """Neither in the message nor in what caused it."""
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigurationError) as raised:
        names.transport(text)
    assert "geheim" not in "".join(traceback.format_exception_only(raised.value))


def test_a_url_that_libpq_refuses_is_not_quoted_with_its_password() -> None:
    """libpq quotes all of it."""
    pytest.importorskip("psycopg")
    for url in ("postgresql://ada:geheim@[::1/shop", "postgresql://ada:geheim@db:port/shop"):
        with pytest.raises(ListenError) as raised:
            Table(url).listen()
        assert "geheim" not in "".join(traceback.format_exception(raised.value))


def test_tables_have_names(sqlite) -> None:
    """The location is the database, the table an option."""
    table = names.transport(f"table+sqlite:{sqlite.path}?table=letters&batch=4&lease=2.5&decode=text")
    assert table == Table(f"sqlite:{sqlite.path}", "letters", batch=4, lease=2.5, decode="text")
    assert names.transport(table.address) == Table(f"sqlite:{sqlite.path}", "letters")


def test_options_of_libpq_are_written_with_a_percent_code() -> None:
    """Since the ? is that of the transport's own options."""
    pytest.importorskip("psycopg")
    table = names.transport("table+postgresql://ada@db/shop%3Fsslmode=require%26port=1?table=letters")
    assert table == Table("postgresql://ada@db/shop?sslmode=require&port=1", "letters")
    assert names.transport(table.address) == table


def test_a_file_that_does_not_exist(sqlite) -> None:
    """It is not made by the way; a mistyped path would serve nothing for ever."""
    with pytest.raises(
        ListenError, match="there is no such file; Table.create\\(\\) makes it, and the table"
    ) as raised:
        Table(sqlite.url).listen()
    assert raised.value.errno == errno.ENOENT
    assert raised.value.address == f"table+sqlite:{sqlite.path}?table=jobs"
    assert not sqlite.path.exists()


def test_a_table_that_does_not_exist(counter) -> None:
    """The message says which, where, and what makes it."""
    counter.table()
    table = Table(counter.database.url, "letters")
    with pytest.raises(ListenError, match=r"it has no table 'letters'; Table.create\(\) makes one") as raised:
        table.listen()
    assert raised.value.errno == errno.ENOENT
    assert "geheim" not in "".join(traceback.format_exception(raised.value))


def test_a_table_without_a_column_that_is_needed(counter) -> None:
    """It is some other table."""
    counter.run("CREATE TABLE {table} (id integer, payload text, state text)")
    with pytest.raises(
        ListenError, match=rf"table '{counter.database.name}'.*due.*create_sql\(\) shows what is needed"
    ):
        Table(counter.database.url, counter.database.name).listen()


def test_a_file_that_is_no_database(sqlite) -> None:
    """As sqlite says."""
    sqlite.path.write_bytes(b"a letter to the editor " * 100)
    with pytest.raises(ListenError, match="file is not a database"):
        Table(sqlite.url).listen()


def test_a_database_that_is_locked(sqlite, monkeypatch) -> None:
    """A server that could not lease anything does not start."""
    monkeypatch.setattr("tricorn.leases.sqlite.PATIENCE_S", 0.05)
    Table(sqlite.url).create()
    holder = sqlite3.connect(sqlite.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(ListenError, match="it is locked: another program has been writing for 0.05 s") as raised:
            Table(sqlite.url).listen()
        assert raised.value.errno == errno.EBUSY
        with pytest.raises(SourceUnavailable, match="is locked by another program"):
            Table(sqlite.url).put("later")
    finally:
        holder.close()


def test_a_database_that_may_only_be_read(script) -> None:
    """Leasing writes."""
    with tempfile.TemporaryDirectory(prefix="tricorn-") as folder:
        path = f"{folder}/jobs.db"
        Table(f"sqlite:{path}").create()
        os.chmod(path, 0o444)
        os.chmod(folder, 0o555)
        program = script(
            """
            import os, sys
            from tricorn.errors import ListenError
            from tricorn.transports import Table
            import tricorn.leases.sqlite
            if os.getuid() == 0:
                os.seteuid(65534)
            try:
                Table(sys.argv[1]).listen()
            except ListenError as error:
                print(error)
            """,
            f"sqlite:{path}",
        )
        said, wrong = program.communicate(timeout=30)
        os.chmod(folder, 0o755)
    assert wrong == ""
    assert re.search("readonly database|unable to open database", said)


def test_a_server_that_is_not_there() -> None:
    """The message is libpq's, without the password."""
    pytest.importorskip("psycopg")
    with pytest.raises(ListenError, match=r"cannot listen on table\+postgresql://ada:\.\.\.@127\.0\.0\.1:1/shop"):
        Table("postgresql://ada:geheim@127.0.0.1:1/shop").listen()


def test_without_psycopg_the_extra_is_named(monkeypatch) -> None:
    """When the transport is built."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"needs psycopg 3.*install tricorn\[postgres\]"):
        Table("postgresql://db/shop")


def test_a_right_that_is_missing(postgres) -> None:
    """Reading alone does not do."""
    Table(postgres.url, postgres.name).create()
    postgres.run("CREATE ROLE reader LOGIN")
    postgres.run(f"GRANT SELECT ON {postgres.name} TO reader")
    try:
        with pytest.raises(ListenError, match="permission denied for table.*SELECT, UPDATE and INSERT are needed"):
            Table(postgres.url.replace("tricorn:geheim", "reader"), postgres.name).listen()
    finally:
        postgres.run(f"DROP TABLE {postgres.name}; DROP ROLE reader")


def test_a_file_that_goes_away_and_comes_back(sqlite, recorder, until) -> None:
    """Accepting pauses, and is told of; nothing has to be restarted."""
    table = Table(sqlite.url, look_every=0.05)
    table.create()
    away = sqlite.path.with_suffix(".away")
    with Server(table, "thread-pool?workers=2", lambda row: None, log=False, observers=[recorder]) as server:
        server.start()
        table.put(1)
        recorder.wait(JobFinished)
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(f"{sqlite.path}{suffix}"):
                os.rename(f"{sqlite.path}{suffix}", f"{away}{suffix}")
        paused = recorder.wait(AcceptPaused)
        assert isinstance(paused[0].error, SourceUnavailable)
        table.create()
        number = table.put(2)
        until(lambda: table.read(number).state == "done")
    assert server.report.clean


def test_a_server_that_cuts_every_connection(postgres, recorder, until) -> None:
    """The row in work is finished by a new one."""
    table = Table(postgres.url, postgres.name, look_every=3600.0)
    table.create()

    def cut(row) -> None:
        if row.value == "cut":
            postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tricorn'")

    with Server(table, "thread-pool?workers=2", cut, log=False, observers=[recorder]) as server:
        server.start()
        numbers = [table.put("before"), table.put("cut")]
        recorder.wait(JobFinished, 2)
        until(lambda: table.count() == {"done": 2})
        numbers.append(table.put("after"))
        until(lambda: table.count() == {"done": 3})
    assert [table.read(number).attempts for number in numbers] == [1, 1, 1]
    assert server.report.failed == 0


def test_a_server_that_is_restarted(own_server, recorder, until) -> None:
    """What was in work is finished when it is back, and accepting goes on."""
    table = Table(own_server.url, look_every=3600.0)
    table.create()

    stopped = threading.Event()

    def stop(row) -> None:
        if row.value == "stop":
            own_server.stop()
            stopped.set()

    with Server(table, "thread-pool?workers=2", stop, log=False, observers=[recorder]) as server:
        server.start()
        table.put("stop")
        assert isinstance(recorder.wait(AcceptPaused)[0].error, SourceUnavailable)
        assert stopped.wait(60)
        own_server.start()
        until(lambda: table.count() == {"done": 1})
        table.put("after")
        until(lambda: table.count() == {"done": 2})
    assert server.report.failed == 0


def test_a_table_that_is_locked_delays_its_rows_and_hangs_nobody(counter) -> None:
    """`accept` has nothing meanwhile, and an alarm tries again; nothing else would tell."""
    table, listener = counter.open()
    table.put("locked in")
    with counter.database.locked():
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert counter.accept(listener).value == "locked in"


@pytest.mark.parametrize("message", ["nul \0", "half a pair \ud800", "x" * 100_000])
def test_an_error_that_no_database_takes_is_written_in_its_way(counter, message) -> None:
    """Whatever an exception says, its row is put back."""
    table, listener = counter.open()
    number = table.put("odd")
    row = counter.accept(listener)
    row.open(Deadline(None))
    row.finish(ValueError(message))
    assert table.read(number).state == "ready"
    assert table.read(number).error.startswith("ValueError: ")
    assert len(table.read(number).error) <= 4000 + 10
