"""The command line in a process of its own, and distributions that exist for one test."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import unquote

import pytest

from tricorn import plugins

#: Without the extra ``cli`` there is nothing to test here.
collect_ignore_glob = [] if find_spec("click") and find_spec("rich") else ["test_*.py"]
#: Seconds after which a test gives up on what it waits for.
PATIENCE = 20.0


class Running:
    """A ``tricorn`` process, and what it has written so far."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tricorn", *arguments],
            cwd=cwd, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.out = self.err = ""

    def read_until(self, stream: str, pattern: str) -> re.Match[str]:
        """Read ``out`` or ``err`` until it matches; fails when it ends, or after `PATIENCE`."""
        pipe = self.process.stdout if stream == "out" else self.process.stderr
        assert pipe is not None
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, getattr(self, stream))):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(pipe.fileno(), 65536) if ready else b""
            if not chunk:
                pytest.fail(f"no {pattern!r} came; out: {self.out!r}, err: {self.err!r}")
            setattr(self, stream, getattr(self, stream) + chunk.decode())
        return match

    @property
    def addresses(self) -> list[str]:
        """What stands on the line that says that clients can connect."""
        return self.read_until("out", r"(?m)^serving (.*)\n")[1].split()

    def connect(self) -> socket.socket:
        """A client of the first address."""
        scheme, _, place = self.addresses[0].partition(":")
        inet = scheme in ("tcp", "udp")
        family = socket.AF_INET if inet else socket.AF_UNIX
        client = socket.socket(family, socket.SOCK_STREAM if scheme in ("tcp", "unix") else socket.SOCK_DGRAM)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", int(place.rpartition(":")[2])) if inet else unquote(place))
        return client

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """To the process alone."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end, take in the rest of the output, and return the exit status."""
        out, err = self.process.communicate(timeout=PATIENCE)
        self.out += out.decode()
        self.err += err.decode()
        return self.process.returncode


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """``start("serve", ..., NAME="value")`` begins a ``tricorn`` process in ``tmp_path``; it is gone after the test."""
    running: list[Running] = []

    def start(*arguments: str, **environment: str) -> Running:
        running.append(Running(arguments, tmp_path, environment))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """``write("app", source)`` makes a module in the directory where ``start`` runs."""

    def write(module: str, source: str) -> Path:
        path = tmp_path / f"{module}.py"
        path.write_text(dedent(source))
        return path

    return write


@pytest.fixture
def distribution(tmp_path: Path) -> Callable[[str, str], Path]:
    """``distribution("acme", source)`` makes one whose only module is its plugin; returns its folder."""

    def distribution(name: str, source: str) -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"{name}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[tricorn]\n{name} = {name}_parts\n")
        (site / f"{name}_parts.py").write_text(dedent(source))
        return site

    return distribution


@pytest.fixture
def install(distribution: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Like ``distribution``, and found by this very process."""
    before = set(sys.modules)

    def install(name: str, source: str) -> None:
        monkeypatch.syspath_prepend(str(distribution(name, source)))
        plugins.reset()

    yield install
    for module in set(sys.modules) - before:
        if module.endswith("_parts"):
            del sys.modules[module]
    plugins.reset()
