"""The SQL of leasing, the same for all databases but for a few words.

A row is due when its ``due`` has passed: one that is ready, from the moment on that it may be begun; one that is
leased, from the moment on that its lease has run out.  What is done or dead has no ``due``.  So one index answers both
"what is next" and "when is something next".  The clock is the database's.
"""

from __future__ import annotations

import re

from attrs import frozen

__all__ = ["COLUMNS", "POSTGRESQL", "SQLITE", "Dialect", "Statements", "quoted_table"]

#: What a table must have, in the order in which rows are read.
COLUMNS = ("id", "payload", "state", "due", "attempts", "holder", "result", "error")

_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,47}"


@frozen
class Dialect:
    """Where databases differ.  ``now``: seconds since 1970 as a number; ``parameter``: how ``:name`` is written."""

    now: str
    chosen: str
    parameter: str
    create: str


@frozen
class Statements:
    """One table's statements.  Parameters are named; every change returns the ids of the rows that it changed."""

    create: str
    look: str
    allowed: str
    allowed_to_delete: str
    next_due: str
    lease: str
    renew: str
    done: str
    forget: str
    back: str
    unbegun: str
    dead: str
    state: str
    fetch: str
    put: str
    read: str
    count: str

    @classmethod
    def of(cls, dialect: Dialect, table: str, payload: str = "payload") -> Statements:
        """``payload``: the column, perhaps with a cast."""
        name = quoted_table(table)
        mine = "WHERE id = :id AND holder = :holder AND state = 'leased' RETURNING id"

        def write(text: str) -> str:
            return re.sub(r"(?<!:):([a-z]+)", dialect.parameter, text)

        due = f"SELECT id FROM {name} WHERE due <= {dialect.now} ORDER BY due, id LIMIT :most"
        words = {"{name}": name, "{plain}": table.rpartition(".")[2], "{tell}": quoted_table(table, "_tell")}
        create = re.sub(r"\{[a-z]+\}", lambda found: words[found[0]], dialect.create)
        return cls(
            create=create,
            look=f"SELECT {', '.join(COLUMNS)} FROM {name} LIMIT 0",
            allowed=f"UPDATE {name} SET state = state, due = due, attempts = attempts, holder = holder, "
            f"result = result, error = error WHERE 1 = 0",
            allowed_to_delete=f"DELETE FROM {name} WHERE 1 = 0",
            next_due=f"SELECT min(due) - {dialect.now} FROM {name} WHERE due IS NOT NULL",
            lease=write(
                f"UPDATE {name} SET state = 'leased', due = {dialect.now} + :seconds, holder = :holder, "
                f"attempts = attempts + 1 WHERE {dialect.chosen.format(due=due)} RETURNING id, {payload}, attempts"
            ),
            renew=write(f"UPDATE {name} SET due = {dialect.now} + :seconds {mine}"),
            done=write(f"UPDATE {name} SET state = 'done', due = NULL, result = :result, error = NULL {mine}"),
            forget=write(f"DELETE FROM {name} {mine}"),
            back=write(
                f"UPDATE {name} SET state = 'ready', due = {dialect.now} + :delay, holder = NULL, error = :error {mine}"
            ),
            unbegun=write(
                f"UPDATE {name} SET state = 'ready', due = {dialect.now} + :delay, holder = NULL, "
                f"attempts = attempts - 1 {mine}"
            ),
            dead=write(f"UPDATE {name} SET state = 'dead', due = NULL, attempts = :attempts, error = :error {mine}"),
            state=write(f"SELECT state, holder FROM {name} WHERE id = :id"),
            fetch=write(f"SELECT {payload} FROM {name} WHERE id = :id AND holder = :holder AND state = 'leased'"),
            put=write(f"INSERT INTO {name} (payload, due) VALUES (:payload, {dialect.now} + :delay) RETURNING id"),
            read=write(f"SELECT id, state, attempts, result, error FROM {name} WHERE id = :id"),
            count=f"SELECT state, count(*) FROM {name} GROUP BY state",
        )


def quoted_table(name: str, suffix: str = "") -> str:
    """``jobs`` or ``schema.jobs``, as SQL has it, with ``suffix``.  Raises `ValueError` for anything else."""
    if not isinstance(name, str) or not re.fullmatch(rf"{_NAME}(\.{_NAME})?", name):
        raise ValueError("a name of ASCII letters, digits and _, at most 48, perhaps with a schema's name and a dot")
    return ".".join(f'"{part}"' for part in (name + suffix).split("."))


SQLITE = Dialect(
    now="((julianday('now') - 2440587.5) * 86400.0)",
    chosen="id IN ({due})",
    parameter=r":\1",
    create="""\
CREATE TABLE IF NOT EXISTS {name} (
    id INTEGER PRIMARY KEY,
    payload NOT NULL,
    state TEXT NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'leased', 'done', 'dead')),
    due REAL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    holder TEXT,
    result TEXT,
    error TEXT
);
CREATE INDEX IF NOT EXISTS "{plain}_due" ON {name} (due, id) WHERE due IS NOT NULL;
""",
)

#: ARRAY makes the inner query run once; IN may run it again, and lock more than it should.
POSTGRESQL = Dialect(
    now="extract(epoch FROM now())::float8",
    chosen="id = ANY(ARRAY({due} FOR UPDATE SKIP LOCKED))",
    parameter=r"%(\1)s",
    create="""\
CREATE TABLE IF NOT EXISTS {name} (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    payload text NOT NULL,
    state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'leased', 'done', 'dead')),
    due double precision DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    holder text,
    result text,
    error text
);
CREATE INDEX IF NOT EXISTS "{plain}_due" ON {name} (due, id) WHERE due IS NOT NULL;
CREATE OR REPLACE FUNCTION {tell}() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('tricorn_{plain}', ''); RETURN NULL; END $$;
DROP TRIGGER IF EXISTS "{plain}_tell" ON {name};
CREATE TRIGGER "{plain}_tell" AFTER INSERT OR UPDATE OF state ON {name}
    FOR EACH ROW WHEN (NEW.state = 'ready') EXECUTE FUNCTION {tell}();
""",
)
