"""Starting servers, loading them, and telling a sample from noise.

A server is a command that prints ``READY <proto>:<address>`` when clients can reach it and ends on SIGTERM.  It runs
in a session of its own, pinned to one processor (the generator has the other), so that its CPU time, its children's
included, can be told from everybody else's.  Where the machine is shared, a sample during which others used more than
`GATE` of one processor is taken again, and the quieter one is kept.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from procfs import cpu_of_session, processes, processes_in_session

__all__ = [
    "C_SERVER",
    "HERE",
    "OUT",
    "Priority",
    "RunningServer",
    "Sample",
    "build_c_server",
    "build_generator",
    "end_on_sigterm",
    "load",
    "pinned",
    "sample",
]

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
GENERATOR = OUT / "loadgen"
#: What the machine can do without an interpreter.
C_SERVER = OUT / "cserver"

#: Processors of the server and of the generator; ``None`` pins to none.
SERVER_CPU, GENERATOR_CPU = 0, 1
#: The share of a processor that others may use during a sample.
GATE = 0.08
#: How busy the generator may be; above, it is what limits the rate.
SATURATED = 0.9
#: How often a sample is taken at most until it is quiet.
TRIES = 2
#: Seconds to wait for quiet before each of these, at most.
QUIET_S = 0.5
READY_S = 20.0
STOP_S = 5.0


def build_generator() -> Path:
    """Compile ``loadgen.c``, unless that was done since it last changed."""
    return _build(GENERATOR)


def build_c_server() -> Path:
    """Compile ``cserver.c``, unless that was done since it last changed."""
    return _build(C_SERVER)


def _build(program: Path) -> Path:
    source = HERE / f"{program.name}.c"
    OUT.mkdir(exist_ok=True)
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", program, source, "-lm"], check=True)
    return program


_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


def end_on_sigterm() -> None:
    """Let SIGTERM end this program by `SystemExit`, so that servers are stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class Priority:
    """Whether servers and generator go before everybody else on the machine; as root only, and not polite."""

    #: From -20, first, to 19; 0 changes nothing.
    nice = 0

    @classmethod
    def take(cls) -> None:
        """For this process and its session: a session is what Linux shares the processors among."""
        if cls.nice:
            os.setpriority(os.PRIO_PROCESS, 0, cls.nice)
            with suppress(OSError):
                Path("/proc/self/autogroup").write_text(str(cls.nice))


def pinned(cpu: int | None) -> Callable[[], None]:
    """What a child does between fork and exec; it dies with the thread that started it."""

    def settle() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if cpu is not None and cpu in os.sched_getaffinity(0):
            os.sched_setaffinity(0, {cpu})
        Priority.take()

    return settle


def environment() -> dict[str, str]:
    """A server's: modules are compiled once and kept, as by an installer, whatever this shell says.

    Compiling at each start leaves a megabyte of holes, which a server that forks copies for every request.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(OUT / "bytecode")}


class RunningServer:
    """A server process in a session of its own: a Python script, or a program.  Use as a context manager, or `stop`."""

    #: The sessions of all that run now: they are not noise.
    sessions: ClassVar[set[int]] = set()

    def __init__(self, command: Sequence[str], *, cpu: int | None = SERVER_CPU, log: str = "server") -> None:
        OUT.mkdir(exist_ok=True)
        self.command = tuple(command)
        self.lines: list[str] = []
        self._log = open(OUT / f"{log}.err", "ab")  # noqa: SIM115 - closed by stop()
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, *self.command] if self.command[0].endswith(".py") else self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
            preexec_fn=pinned(cpu),
            env=environment(),
        )
        self.pid = self._process.pid
        self.sessions.add(self.pid)
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        if not self._ready.wait(READY_S) or not self.address:
            self.stop()
            raise RuntimeError(f"{' '.join(self.command)} did not become ready; see {self._log.name}")

    def _read(self, output: IO[str]) -> None:
        for line in output:
            self.lines.append(line.strip())
            self._ready.set()
        self._ready.set()

    @property
    def address(self) -> str:
        """Where it listens, as the generator takes it; ``""`` if it never said."""
        said = [line.removeprefix("READY ") for line in self.lines if line.startswith("READY ")]
        return said[0] if said else ""

    @property
    def alive(self) -> bool:
        """False once it has ended."""
        return self._process.poll() is None

    def stop(self) -> int | None:
        """SIGTERM, and SIGKILL for whatever of it is left after a while; returns the exit status."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        for left in processes_in_session(self.pid):
            with suppress(OSError):
                os.kill(left.pid, signal.SIGKILL)
        status = self._process.wait()
        self._reader.join(STOP_S)
        self._log.close()
        self.sessions.discard(self.pid)
        return status

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


@dataclass(frozen=True)
class Sample:
    """What one run of the generator against one server showed."""

    rate: float
    #: CPU microseconds of the server for each answered request.
    server_us: float
    p50_us: float
    p99_us: float
    oldest_us: float
    errors: int
    #: How busy the generator was, from 0 to 1.
    busy: float
    #: The share of one processor that others used meanwhile.
    noise: float

    @property
    def noisy(self) -> bool:
        """True if others were at work."""
        return self.noise > GATE

    @property
    def saturated(self) -> bool:
        """True if the server might have done more."""
        return self.busy > SATURATED


def load(address: str, *options: str, cpu: int | None = GENERATOR_CPU, limit: float = 120.0) -> dict[str, object]:
    """Run the generator once; its findings.  Raises `subprocess.SubprocessError` where it fails."""
    command = [str(build_generator()), "--addr", address, *options]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        check=True,
        timeout=limit,
        start_new_session=True,
        preexec_fn=pinned(cpu),
        text=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def sample(server: RunningServer, options: Sequence[str], *, cpu: int | None = GENERATOR_CPU) -> Sample:
    """Load a server, again if it was noisy; the quietest sample."""
    best: Sample | None = None
    for _ in range(TRIES):
        _wait_for_quiet()
        taken = _sample_once(server, options, cpu)
        if best is None or taken.noise < best.noise:
            best = taken
        if not best.noisy:
            break
    assert best is not None
    return best


def _sample_once(server: RunningServer, options: Sequence[str], cpu: int | None) -> Sample:
    cpu_before, others_before, began = cpu_of_session(server.pid), _cpu_of_others(), time.perf_counter()
    found = load(server.address, *options, cpu=cpu)
    wall = time.perf_counter() - began
    others, spent = _cpu_of_others() - others_before, cpu_of_session(server.pid) - cpu_before
    latency = found["latency_us"]
    return Sample(
        rate=found["rps"],
        server_us=spent / max(found["answered"], 1) * 1e6,
        p50_us=latency["p50"],
        p99_us=latency["p99"],
        oldest_us=found["oldest_us"],
        errors=found["errors"],
        busy=found["busy"],
        noise=max(0.0, others / wall),
    )


def _cpu_of_others() -> float:
    """CPU seconds of every process that is neither ours nor one of our servers'."""
    us = os.getpid()
    return sum(
        each.cpu()
        for each in processes()
        if each.session not in RunningServer.sessions and us not in (each.pid, each.parent)
    )


def _wait_for_quiet() -> None:
    limit = time.monotonic() + QUIET_S
    while time.monotonic() < limit:
        before = _cpu_of_others()
        time.sleep(0.1)
        if (_cpu_of_others() - before) / 0.1 <= GATE:
            return
