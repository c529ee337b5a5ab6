"""What the kernel tells about processes, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Footprint", "Process", "cpu_of_session", "footprint_of", "processes", "processes_in_session"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat."""

    pid: int
    parent: int
    session: int
    state: str
    #: CPU seconds of children that ended and were waited for.
    reaped_cpu: float

    def cpu(self) -> float:
        """CPU seconds so far, its ended threads and children included; 0 if it is gone."""
        try:
            return time.clock_gettime_ns((~self.pid << 3) | 2) * 1e-9 + self.reaped_cpu  # clock_getcpuclockid(3)
        except OSError:
            return 0.0


def processes() -> Iterator[Process]:
    """Every process there is."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    text = file.read()
            except OSError:
                continue
            fields = text[text.rindex(b")") + 2 :].split()
            reaped = (int(fields[13]) + int(fields[14])) / _TICKS
            yield Process(int(name), int(fields[1]), int(fields[3]), fields[0].decode(), reaped)


def processes_in_session(session: int) -> list[Process]:
    """The processes of a session, those that are already dead but not reaped left out."""
    return [each for each in processes() if each.session == session and each.state != "Z"]


def cpu_of_session(session: int) -> float:
    """CPU seconds of a server and everything that it started."""
    return sum(each.cpu() for each in processes() if each.session == session)


@dataclass(frozen=True)
class Footprint:
    """What a server holds: sums over its processes; memory in KiB."""

    descriptors: int
    threads: int
    processes: int
    #: Of the process that was started, as ps(1) shows it.
    rss: int
    #: Of all processes; pages that several of them share count once.
    pss: int
    #: The part of `pss` that is no file: unlike that of libraries, it does not depend on who else runs.
    anonymous: int


def footprint_of(session: int) -> Footprint:
    """Measure every process of a session; ``session`` is also the number of the first one."""
    descriptors = threads = count = rss = pss = anonymous = 0
    for each in processes_in_session(session):
        try:
            held = len(os.listdir(f"/proc/{each.pid}/fd")), len(os.listdir(f"/proc/{each.pid}/task"))
            memory = _memory(each.pid)
        except OSError:
            continue  # it has just ended
        descriptors, threads, count = descriptors + held[0], threads + held[1], count + 1
        pss, anonymous = pss + memory["Pss:"], anonymous + memory["Pss_Anon:"]
        if each.pid == session:
            rss = memory["Rss:"]
    return Footprint(descriptors, threads, count, rss, pss, anonymous)


def _memory(pid: int) -> dict[str, int]:
    found = {"Rss:": 0, "Pss:": 0, "Pss_Anon:": 0}
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            name, _, rest = line.partition(" ")
            if name in found:
                found[name] = int(rest.split()[0])
    return found
