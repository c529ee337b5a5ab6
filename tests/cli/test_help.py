"""The help texts, and the two ways to call the program."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from tricorn.cli import words
from tricorn.cli.commands import root


@pytest.mark.parametrize("command", [[], ["serve"], ["parts"], ["matrix"], ["explain"]])
def test_help_has_examples_and_fits_80_columns(command) -> None:
    """What was laid out by hand stays as it was."""
    shown = CliRunner().invoke(root, [*command, "--help"], terminal_width=80)
    assert shown.exit_code == 0
    assert "Examples:" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80


def test_the_help_of_serve_has_the_table_of_exit_statuses() -> None:
    """One row for each."""
    shown = CliRunner().invoke(root, ["serve", "--help"]).output
    table = shown.partition("Exit status:")[2].partition("Options:")[0]
    assert [line.split()[0] for line in table.splitlines() if line.strip()] == ["0", "1", "2", "70", "130"]
    assert "Exit status:" in words.SERVE


def test_the_version() -> None:
    """Of the library, and of Python."""
    shown = CliRunner().invoke(root, ["--version"], prog_name="tricorn").output
    assert shown.startswith(f"tricorn {version('tricorn')} (Python 3.")


def test_python_m_tricorn_is_the_same_program() -> None:
    """Its name in the messages, too."""
    ended = subprocess.run([sys.executable, "-m", "tricorn"], capture_output=True, text=True, timeout=20, check=True)
    assert ended.stdout.startswith("Usage: tricorn [OPTIONS] ")
    assert ended.stderr == ""
