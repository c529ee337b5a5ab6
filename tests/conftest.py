"""What all tests share: nothing may be left behind, and a way to run a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tricorn.testing import no_leaks

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No test leaves a thread, a descriptor or a child process."""
    with no_leaks():
        yield


@pytest.fixture(scope="session")
def libuv_is_ready() -> None:
    """libuv opens a pipe for the whole process with its first loop, and keeps it."""
    try:
        import uvloop
    except ImportError:
        return
    uvloop.new_event_loop().close()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest, libuv_is_ready: None) -> str:
    """The name of each kind of asyncio loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="the extra 'uvloop' is not installed")
    name: str = request.param
    return name


@pytest.fixture
def script(nothing_left_behind: None, tmp_path: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program from its text, with pipes for all three streams; it is killed at the end of the test.

    What it had to say then is shown if the test fails.
    """
    started: list[subprocess.Popen[str]] = []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    def start(text: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(text), *map(str, arguments)]
        pipe = subprocess.PIPE
        program = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()
        if not program.stdout or not program.stdout.closed:
            print(*program.communicate(), sep="\n")
