"""What ``tricorn matrix`` does: every transport with every dispatcher, and a table of what came of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from attrs import asdict, frozen

from tricorn.cli.output import Cell, say, show_table
from tricorn.cli.trial import FAILED, NOT_TRIED, REFUSED, SERVED, Trial, row_of, try_pair
from tricorn.observe.escape import escape
from tricorn.parts import Corner, TransportPart, WrapperPart
from tricorn.plugins import Catalogue, catalogue

__all__ = ["Matrix", "failures", "fill_matrix", "matrix_record", "show_matrix"]

_STYLES = {SERVED: "green", REFUSED: "yellow", NOT_TRIED: "dim", FAILED: "bold red"}
#: How much of a reason stands in a cell, in characters.
_IN_CELL = 28
#: The longest folder in which a socket's path still fits into what the kernel takes.
_MAX_FOLDER = 70


@frozen
class Matrix:
    """The trials by transport and dispatcher, and the plugins that could offer nothing."""

    trials: dict[tuple[str, str], Trial]
    not_loaded: tuple[str, ...] = ()

    @property
    def transports(self) -> tuple[str, ...]:
        """The rows."""
        return tuple(dict.fromkeys(transport for transport, _ in self.trials))

    @property
    def dispatchers(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(dict.fromkeys(dispatcher for _, dispatcher in self.trials))


def fill_matrix(timeout: float) -> Matrix:
    """Try all pairs, one after the other; ``timeout`` is a client's patience in seconds.  Never raises for a part."""
    found = catalogue()
    trials = {}
    rows: list[TransportPart | WrapperPart] = [*_transports(found), *_wrappers(found)]
    for part in rows:
        for dispatcher in found.names(Corner.DISPATCHER):
            with _private_folder() as folder:
                trials[row_of(part), dispatcher] = try_pair(part, dispatcher, folder, timeout)
    return Matrix(trials, tuple(str(failure.error) for failure in found.failures))


def _transports(found: Catalogue) -> list[TransportPart]:
    """One for each scheme; where two claim it, trying it says so."""
    parts = {offer.part.name: offer.part for offer in found.offers if isinstance(offer.part, TransportPart)}
    return [parts[name] for name in sorted(parts)]


def _wrappers(found: Catalogue) -> list[WrapperPart]:
    parts = {offer.part.name: offer.part for offer in found.offers if isinstance(offer.part, WrapperPart)}
    return [parts[name] for name in sorted(parts)]


@contextmanager
def _private_folder() -> Iterator[Path]:
    usual = tempfile.gettempdir()
    place = usual if len(usual) <= _MAX_FOLDER else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="tricorn-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def failures(matrix: Matrix) -> int:
    """How many cells failed."""
    return sum(trial.result == FAILED for trial in matrix.trials.values())


def matrix_record(matrix: Matrix) -> dict[str, Any]:
    """All of it, as JSON has it."""
    return {
        "transports": matrix.transports,
        "dispatchers": matrix.dispatchers,
        "cells": [asdict(trial) for trial in matrix.trials.values()],
        "not_loaded": matrix.not_loaded,
        "failures": failures(matrix),
    }


def show_matrix(matrix: Matrix) -> None:
    """Print the table, and below it the reasons in full, each once."""
    notes: dict[str, int] = {}
    rows = [
        [(transport, "bold"), *(_cell(matrix.trials[transport, each], notes) for each in matrix.dispatchers)]
        for transport in matrix.transports
    ]
    show_table("An echo over every transport with every dispatcher", ("", *matrix.dispatchers), rows)
    for reason, number in notes.items():
        say(f"[{number}] {escape(reason)}")
    for reason in matrix.not_loaded:
        say(f"not loaded: {escape(reason)}")


def _cell(trial: Trial, notes: dict[str, int]) -> Cell:
    style = _STYLES[trial.result]
    if not trial.reason:
        return trial.result, style
    number = notes.setdefault(trial.reason, len(notes) + 1)
    return f"{trial.result}: {shorten(trial.reason, _IN_CELL, placeholder=' ...')} [{number}]", style
