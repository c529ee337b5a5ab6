"""The server under test as its testers see it: a process with an address, descriptors, children, and a log."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

__all__ = ["BOUND_S", "Failure", "Subject", "until"]

#: The longest that anything is waited for.
BOUND_S = 15.0
HERE = Path(__file__).parent


class Failure(AssertionError):
    """A criterion that was not met: what was seen."""


def until(condition: Callable[[], Any], what: str, seconds: float = BOUND_S) -> Any:
    """Wait for ``condition``, looking often: for what happens in another process, of which nobody tells."""
    limit = monotonic() + seconds
    while not (value := condition()):
        if monotonic() > limit:
            raise Failure(f"not within {seconds:g} s: {what}")
        sleep(0.01)
    return value


class Subject:
    """Start with ``with Subject("thread-pool?workers=8") as server``."""

    def __init__(self, dispatcher: str, transport: str = "tcp://127.0.0.1:0", *options: str, **popen: Any) -> None:
        command = [sys.executable, str(HERE / "server.py"), "--dispatcher", dispatcher, *options, transport]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        popen.setdefault("stderr", self._log)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, **popen)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._said = b""
        self.family: set[int] = set()
        try:
            word = self.hear("ready")
        except BaseException:
            self.end()
            raise
        address = json.loads(word)
        self.address: Any = tuple(address) if isinstance(address, list) else address
        self.pid = self.process.pid

    # -- what it says

    def hear(self, word: str, seconds: float = BOUND_S) -> str:
        """The rest of the first line that begins with ``word``."""
        limit = monotonic() + seconds
        while True:
            found = re.search(rf"^{word} (.*)\n".encode(), self._said, re.MULTILINE)
            if found:
                return found[1].decode()
            if monotonic() > limit:
                raise Failure(
                    f"it did not say {word!r} within {seconds:g} s; it said {self._said!r}, and {self.log()!r}"
                )
            self._listen(limit)

    def _listen(self, limit: float) -> None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], max(0.0, limit - monotonic()))[0]:
            return
        more = os.read(fd, 65536)
        if not more:
            raise Failure(f"it ended; it said {self._said!r}, and in its log {self.log()!r}")
        self._said += more

    def log(self) -> str:
        """All of it, until now."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode("utf-8", "backslashreplace")

    def logged(self, words: str, times: int = 1) -> None:
        """Wait until the log has ``words`` so often."""
        until(lambda: self.log().count(words) >= times, f"{times} x {words!r} in the log")

    # -- what it is

    def pids(self) -> list[int]:
        """It, and its children's children."""
        found, fresh = [self.pid], [self.pid]
        while fresh:
            fresh = [child for pid in fresh for child in _children(pid)]
            found += fresh
        self.family.update(found)
        return found

    def children(self) -> list[int]:
        """Those of them that live."""
        return [pid for pid in self.pids()[1:] if _state(pid) not in ("", "Z")]

    def zombies(self) -> list[int]:
        """Children that nobody has reaped."""
        return [pid for pid in self.pids() if _state(pid) == "Z"]

    def descriptors(self) -> int:
        """Of the server's own process."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        """Of the server's own process."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def memory(self) -> int:
        """Resident bytes of all."""
        return sum(_resident(pid) for pid in self.pids())

    def cpu_s(self) -> float:
        """Processor seconds of all that live."""
        return sum(_cpu_s(pid) for pid in self.pids())

    # -- talking to it

    @contextmanager
    def call(self, timeout: float = BOUND_S) -> Iterator[socket.socket]:
        """A connection."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        with socket.socket(family) as client:
            client.settimeout(timeout)
            client.connect(self.address)
            yield client

    def ask(self, order: bytes, timeout: float = BOUND_S) -> bytes:
        """One request on a connection of its own; ``b""`` where there was no answer."""
        with self.call(timeout) as client:
            try:
                client.sendall(order + b"\n")
                return read_line(client)
            except ConnectionError:
                return b""

    def expect(self, order: bytes = b"canary", reply: bytes | None = None, timeout: float = 5.0) -> None:
        """That it answers as it should, in time."""
        try:
            answer = self.ask(order, timeout)
        except OSError as error:
            raise Failure(f"{order!r} was not answered: {error!r}") from None
        if answer != (order if reply is None else reply):
            raise Failure(f"{order!r} was answered by {answer!r}")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = BOUND_S) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"it did not end within {seconds:g} s") from None

    def limit_descriptors(self, spare: int | None) -> None:
        """Let each of its processes open so many more, or as many as ever."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                soft = min(hard, 4096) if spare is None else _highest_descriptor(pid) + 1 + spare
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

    # -- the end

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill what is left of it."""
        with suppress(OSError, AttributeError):
            self.pids()
        for pid in [*self.family, self.process.pid]:
            if pid == self.process.pid or _state(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(BOUND_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


def read_line(client: socket.socket) -> bytes:
    """What comes until a newline, or the end."""
    data = b""
    while not data.endswith(b"\n"):
        more = client.recv(65536)
        if not more:
            break
        data += more
    return data.rstrip(b"\n")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    return [int(each) for each in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _state(pid: int) -> str:
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[0] if fields else ""


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * resource.getpagesize() if fields else 0


def _cpu_s(pid: int) -> float:
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _highest_descriptor(pid: int) -> int:
    try:
        return max(map(int, os.listdir(f"/proc/{pid}/fd")), default=0)
    except OSError:
        return 0
