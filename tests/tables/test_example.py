"""The example of a job queue, run as its docstring says."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "job_queue.py"


def run(*words: str, folder: Path) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, *words], capture_output=True, text=True, cwd=folder, check=True, timeout=30
    )
    assert done.stderr == ""
    return done.stdout


def test_the_queue_works_off_its_jobs(tmp_path, until) -> None:
    """Those of the program and those of sqlite's own; a signal ends it."""
    assert run("put", "jobs.db", '{"numbers": [1, 2, 3]}', folder=tmp_path) == "job 1\n"
    command = [sys.executable, EXAMPLE, "work", "jobs.db", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == f"working on table+sqlite:{Path('jobs.db')}?table=jobs\n"
            other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, timeout=10)
            other.execute("INSERT INTO jobs (payload) VALUES (?)", ['{"numbers": [4, 5]}'])
            until(lambda: other.execute("SELECT result FROM jobs").fetchall() == [("6",), ("9",)])
            other.close()
            assert run("show", "jobs.db", folder=tmp_path) == "done     2\n"
            program.send_signal(signal.SIGTERM)
            said, wrong = program.communicate(timeout=20)
        finally:
            program.kill()
    assert (program.returncode, wrong) == (0, "")
    assert "2 completed" in said
