"""What all tests share: nothing may be left behind, and a way to run a program of its own."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tricorn.testing import no_leaks

pytest_plugins = ["pytester"]

# How long an example takes says something of the machine, and of what else it does, and nothing of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


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


class ServiceManager:
    """A stand-in for systemd: gives sockets and variables to a program, and hears what it says of itself."""

    #: Runs in the program's own process, as its number has to be known: moves the sockets to 3, 4 ..., and becomes it.
    _LAUNCH = """
import fcntl, os, sys
fds, program, arguments = sys.argv[1].split(), sys.argv[2], sys.argv[3:]
copies = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
for fd in map(int, fds):
    os.close(fd)
for place, fd in enumerate(copies):
    os.dup2(fd, 3 + place)
for name in ("LISTEN_PID", "WATCHDOG_PID"):
    if os.environ.get(name) == "":
        os.environ[name] = str(os.getpid())
what = "-c" if "\\n" in program else "-m"
os.execv(sys.executable, [sys.executable, "-W", "error", what, program, *arguments])
"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._heard: socket.socket | None = None
        self._started: list[subprocess.Popen[str]] = []

    def hear(self, address: str) -> dict[str, str]:
        """Listen on ``address``, a path or ``@name``; the variables by which a program knows of it."""
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(address.replace("@", "\0", 1) if address[:1] == "@" else address)
        return {"NOTIFY_SOCKET": address}

    def told(self, timeout: float = 20.0) -> dict[str, str]:
        """The next message, taken apart."""
        assert self._heard is not None
        assert select.select([self._heard], [], [], timeout)[0], "nothing was said"
        return dict(line.split("=", 1) for line in self._heard.recv(4096).decode().splitlines())

    def start(
        self, program: str, *arguments: object, sockets: Sequence[socket.socket] = (), names: str | None = None,
        **variables: str,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Start a Python program from its text, or a module by its name, with ``sockets`` from descriptor 3 on."""
        given = {"LISTEN_FDS": str(len(sockets)), "LISTEN_PID": ""} if sockets else {}
        if names is not None:
            given["LISTEN_FDNAMES"] = names
        fds = [sock.fileno() for sock in sockets]
        started = subprocess.Popen(
            [sys.executable, "-c", self._LAUNCH, " ".join(map(str, fds)), textwrap.dedent(program),
             *map(str, arguments)],
            stdout=subprocess.PIPE, text=True, cwd=self._folder, pass_fds=fds, env={**os.environ, **given, **variables},
        )  # fmt: skip
        self._started.append(started)
        return started

    def close(self) -> None:
        """Kill what still runs."""
        for program in self._started:
            program.kill()
            program.communicate()
        if self._heard is not None:
            self._heard.close()


@pytest.fixture
def service_manager(nothing_left_behind: None, tmp_path: Path) -> Iterator[ServiceManager]:
    """A stand-in for systemd."""
    manager = ServiceManager(tmp_path)
    yield manager
    manager.close()
