"""``tricorn matrix``: real servers, real clients, and what is said where there is no cell to be proud of."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tricorn import locations
from tricorn.cli import trial
from tricorn.cli.commands import root
from tricorn.cli.trial import trial_address, try_pair
from tricorn.parts import Corner, TransportPart
from tricorn.plugins import catalogue

BUILT_IN = {"fork", "process-pool", "sync", "thread", "thread-pool"}
KERNEL = {"tcp", "udp", "unix", "unixgram"}

PARTS = """
    import os, threading
    import attrs
    from tricorn.contracts import Dispatcher, Kind, Transport
    from tricorn.hookspecs import hookimpl
    from tricorn.locations import HOST_AND_PORT, Locator
    from tricorn.parts import DispatcherPart, TransportPart
    from tricorn.transports import TCP

    class Spawn(Dispatcher):
        def dispatch(self, job): threading.Thread(target=job.run, daemon=True).start()

    class Hang(Dispatcher):
        def serve(self, intake): threading.Event().wait()

    class Crash(Dispatcher):
        def dispatch(self, job): os._exit(3)

    class Lose(Dispatcher):
        def dispatch(self, job): raise RuntimeError("butterfingers")

    @attrs.define(eq=False)
    class Needy(Dispatcher):
        size: int
        def dispatch(self, job): job.run()

    @hookimpl
    def tricorn_dispatchers():
        for kind in (Spawn, Hang, Crash, Lose, Needy):
            yield DispatcherPart(kind.__name__.lower(), kind)
        yield DispatcherPart("lost", "no_such_module:Lost")

    @attrs.frozen
    class Radio(Transport):
        kind = Kind.STREAM
        place: str
        def listen(self): return TCP("127.0.0.1", 0).listen()

    @attrs.frozen
    class Table(Transport):
        kind = Kind.ITEM
        def listen(self): return TCP("127.0.0.1", 0).listen()

    AIR = Locator(("place",), "somewhere", lambda location: (location,))

    @hookimpl
    def tricorn_transports():
        yield TransportPart("radio", Radio, AIR)
        yield TransportPart("wave", Radio, AIR, example="here")
        yield TransportPart("table", Table)
"""


@pytest.fixture(scope="module")
def matrix() -> dict[str, Any]:
    """The whole of it, once."""
    result = CliRunner().invoke(root, ["matrix", "--json", "--timeout", "2"], catch_exceptions=False)
    matrix = json.loads(result.stdout)
    assert result.exit_code == bool(matrix["failures"])  # dispatchers of others may be installed, with faults of theirs
    return matrix


def test_every_transport_with_a_kernel_is_served_by_every_built_in_dispatcher(matrix) -> None:
    """4 x 5 cells."""
    served = {(cell["transport"], cell["dispatcher"]) for cell in matrix["cells"] if cell["result"] == "served"}
    assert served >= {(transport, dispatcher) for transport in KERNEL for dispatcher in BUILT_IN}


def test_memory_is_served_where_it_can_be_and_else_refused_with_the_reason(matrix) -> None:
    """Nothing of it crosses a fork."""
    cells = {cell["dispatcher"]: cell for cell in matrix["cells"] if cell["transport"] == "memory"}
    assert {name: cells[name]["result"] for name in sorted(BUILT_IN)} == {
        "fork": "refused", "process-pool": "refused", "sync": "served", "thread": "served", "thread-pool": "served",
    }  # fmt: skip
    assert "exist only in this one; use ThreadPool" in cells["fork"]["reason"]


def test_it_leaves_nothing_behind(matrix) -> None:
    """No thread, no child."""
    assert threading.active_count() == 1
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if children.exists():
        assert children.read_text() == ""


def test_the_table_has_a_short_reason_in_the_cell_and_the_full_one_below() -> None:
    """The number leads from one to the other."""
    result = CliRunner().invoke(root, ["matrix", "--timeout", "2"], catch_exceptions=False)
    lines = result.stdout.splitlines()
    assert lines[1].split() == sorted(catalogue().names(Corner.DISPATCHER))
    (memory,) = [line for line in lines if line.startswith("memory")]
    found = re.search(r"refused: Fork runs requests in \.\.\. (\[\d+\])", memory)
    assert found is not None
    (note,) = [line for line in lines if line.startswith(f"{found[1]} ")]
    assert note.endswith("use ThreadPool (thread-pool), or another transport")
    assert sum(line.split().count("served") >= len(BUILT_IN) for line in lines) >= len(KERNEL)


@pytest.fixture
def tried(install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``tried(scheme, dispatcher)`` is a cell of a machine where odd parts are installed."""
    install("acme", PARTS)
    monkeypatch.setattr(trial, "GRACE_S", 0.5)
    folder = tmp_path / "private"
    folder.mkdir()

    def tried(scheme: str, dispatcher: str) -> trial.Trial:
        part = catalogue().find(Corner.TRANSPORT, scheme).part
        assert isinstance(part, TransportPart)
        return try_pair(part, dispatcher, folder, timeout=0.5)

    return tried


def test_dispatchers_of_others_are_tried_too(tried) -> None:
    """Four lines of code are a column of the table."""
    assert {tried(scheme, "spawn").result for scheme in ("memory", "tcp", "udp")} == {"served"}


@pytest.mark.parametrize(
    ("dispatcher", "words"),
    [
        ("hang", "timed out"),
        ("crash", "its process exited with status 3"),
        ("lose", "the server says: RuntimeError: butterfingers"),
        ("lost", "there is no module 'no_such_module'"),
    ],
)
def test_a_cell_that_is_not_served_has_failed_and_costs_only_itself(tried, dispatcher, words) -> None:
    """Whatever becomes of its process."""
    cell = tried("tcp", dispatcher)
    assert cell.result == "failed"
    assert words in cell.reason or "it hung" in cell.reason


@pytest.mark.parametrize(
    ("scheme", "dispatcher", "result", "words"),
    [
        ("radio", "sync", "not tried", "gives no example of an address"),
        ("wave", "sync", "served", ""),
        ("table", "sync", "not tried", "yields items, and those have no client"),
        ("tcp", "needy", "not tried", "needs option 'size'"),
    ],
)
def test_what_cannot_be_tried_says_why(tried, scheme, dispatcher, result, words) -> None:
    """A transport's registration may give an example; nothing else is guessed."""
    cell = tried(scheme, dispatcher)
    assert cell.result == result
    assert words in cell.reason


def test_the_status_is_1_if_a_cell_failed(install, monkeypatch) -> None:
    """And the plugins that could offer nothing are named."""
    install("acme", "raise RuntimeError('out of order')")

    def bad_day(part, name, folder, timeout) -> trial.Trial:
        row = trial.row_of(part)
        return trial.Trial(row, name, "failed" if row == "tcp" else "served", "it was a bad day" * (row == "tcp"))

    monkeypatch.setattr("tricorn.cli.matrix.try_pair", bad_day)
    result = CliRunner().invoke(root, ["matrix"])
    assert result.exit_code == 1
    assert "[1] it was a bad day" in result.output
    assert "not loaded: acme 1.5" in result.output


def test_addresses_are_ones_that_nobody_else_has(tmp_path) -> None:
    """A free port, a private folder, or nothing at all."""
    addresses = {
        locator: trial_address(TransportPart("x", "a:B", locator), tmp_path)
        for locator in (locations.HOST_AND_PORT, locations.PATH, locations.NOWHERE)
    }
    assert list(addresses.values()) == ["x://127.0.0.1:0", f"x:{tmp_path}/server", "x:"]


def test_without_pidfds_the_trial_is_made_in_this_process(monkeypatch, tmp_path) -> None:
    """As elsewhere than on Linux."""
    monkeypatch.delattr("os.pidfd_open")
    part = catalogue().find(Corner.TRANSPORT, "memory").part
    assert isinstance(part, TransportPart)
    cell = try_pair(part, "thread-pool", tmp_path, timeout=5.0)
    assert (cell.result, cell.reason) == ("served", "")
