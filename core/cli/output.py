"""Standard output and standard error, which may be closed, narrow, no terminal, or a pipe that nobody reads."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tricorn.observe.escape import escape

__all__ = ["Cell", "complain", "make_printable", "say", "show_table", "silence"]

#: A text and its style; no style is ``""``.
Cell = tuple[str, str]


def make_printable() -> None:
    """Let no character stop the program: what the output's encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write ``text`` and a line break to standard output, now; if nobody reads it, go on without."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence()
    except (OSError, ValueError):  # full, or closed
        pass


def silence() -> None:
    """Send what is left for standard output nowhere, or the interpreter would stumble over it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def complain(text: str) -> None:
    """Write one line to standard error: ``tricorn: error:`` and ``text``."""
    line = text.strip().replace("?\n", "? ").replace("\n", "; ")
    with contextlib.suppress(OSError, ValueError):
        print(f"tricorn: error: {escape(line)}", file=sys.stderr, flush=True)


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table: drawn to the width of a terminal, elsewhere plain with one line for each row.

    What plugins wrote is escaped, so that it can neither break a line nor steer the terminal.
    """
    safe = [[(escape(text), style) for text, style in row] for row in rows]
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        say(_plain(title, header, [[text for text, _ in row] for row in safe]))
        return
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in safe:
        table.add_row(*(Text(text, style=style) for text, style in row))
    console.print(table)


def _plain(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, *rows]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join([title, *(_padded(line, widths) for line in lines), ""])


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = (text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True))
    return "  ".join(cells).rstrip()
