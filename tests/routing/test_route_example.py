"""The example of a first stage in place and the rest in a forked child, run as its reader would."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "route.py"


@pytest.fixture
def served(nothing_left_behind: None) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """The program, and its address."""
    command = [sys.executable, "-W", "error", str(EXAMPLE), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        try:
            assert program.stdout is not None
            found = re.fullmatch(r"serving on (.*):(\d+)\n", program.stdout.readline())
            assert found is not None
            yield program, (found[1], int(found[2]))
        finally:
            program.kill()


def ask(address: tuple[str, int], line: bytes) -> str:
    """All that comes back."""
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(line)
        with client.makefile() as answer:
            return answer.read()


def test_a_new_answer_is_a_childs_and_a_known_one_the_servers_own(served) -> None:
    """While a client that says nothing waits, and holds up neither."""
    program, address = served
    with socket.create_connection(address, timeout=20) as silent:
        asked = [ask(address, b"10000\n") for _ in range(3)]
        assert [each.split()[0] for each in asked] == ["1229"] * 3
        pids = [int(each.rstrip(")\n").split()[-1]) for each in asked]
        assert pids[0] != program.pid
        assert pids[1:] == [program.pid] * 2
        assert ask(address, b"ten\n").startswith("a whole number")
        assert ask(address, b"0\n").split()[0] == "0"
        program.send_signal(signal.SIGTERM)
        assert silent.recv(1) == b""
    out, _ = program.communicate(timeout=20)
    assert (program.returncode, "Traceback" in out) == (0, False)
    assert "6 accepted, 6 completed" in out
