"""What is expected of Tricorn, and whether it was reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from tables import Ratio, Values, ratio_by_cpu, ratio_of, values_of

__all__ = ["GOALS", "Goal", "judge"]

#: As much of a goal as cannot be told from all of it, on a shared machine.
LEVEL = 0.97

#: Workload, point and contender to what was found, by round.
Findings = Mapping[str, Mapping[str, Mapping[str, Mapping[int, object]]]]


@dataclass(frozen=True)
class Goal:
    """A ratio that is to be reached, or not to be exceeded."""

    workload: str
    points: tuple[str, ...]
    #: The best of these ...
    ours: tuple[str, ...]
    #: ... by the best of these; of none, the worst of our own values counts.
    theirs: tuple[str, ...]
    times: float
    at_most: bool = False
    #: The other's point, if it is not the same one.
    against: str = ""

    @property
    def text(self) -> str:
        """As it is written behind a finding."""
        return f"goal {'at most' if self.at_most else 'at least'} {self.times:g}"


_SHORT = ("C=16", "C=64", "C=256")
_BOTH = ("C=16", "C=64")
_WIDE = ("C=16", "C=64", "C=512", "C=2000")
_POOLS = ("thread", "thread-pool")
_SINGLE = (
    "ss-sync",
    "ss-thread",
    "asyncio",
    "asyncio-streams",
    "uvloop",
    "uvloop-streams",
    "gevent",
    "twisted",
    "trio",
    "anyio",
)

GOALS = (
    Goal("tcp-short", _SHORT, _POOLS, ("ss-thread",), 2.6),
    Goal("tcp-short", _SHORT, ("sync",), ("ss-sync",), 1.05),
    Goal("tcp-short", _SHORT, ("thread",), ("ss-thread",), 2.0),
    Goal("tcp-short", _SHORT, ("fork",), ("ss-fork",), 1.2),
    Goal("tcp-short", _SHORT, ("selector",), ("uvloop-lines",), 1.0),
    Goal("tcp-persistent", _WIDE, ("selector",), ("uvloop-lines",), 1.0),
    Goal("tcp-persistent", _WIDE, ("selector",), ("uvloop-streams-lines",), 1.4),
    Goal("tcp-persistent", _WIDE, ("selector",), ("asyncio-streams-lines",), 1.8),
    Goal("tcp-persistent", _WIDE, ("thread",), ("ss-thread",), 1.05),
    Goal("tcp-persistent", _BOTH, ("thread-pool",), ("ss-thread",), 1.05),
    Goal("tcp-persistent", ("C=2000",), ("selector",), ("selector",), 0.85, against="C=64"),
    Goal("cpu", ("C=16",), ("process-pool",), _SINGLE, 1.8),
    Goal("udp", _BOTH, ("sync",), ("ss-sync",), 1.4),
    Goal("udp", _BOTH, ("sync-batch",), ("ss-sync",), 1.8),
    Goal("udp", _BOTH, ("sync-batch",), ("uvloop",), 1.3),
    Goal("unixgram", _BOTH, ("sync",), ("ss-sync",), 1.4),
    Goal("unixgram", _BOTH, ("sync-batch",), ("ss-sync",), 1.8),
    Goal("unixgram", _BOTH, ("sync-batch",), ("asyncio",), 1.3),
    Goal("unix-short", _BOTH, ("thread-pool",), ("ss-thread",), 4.0),
    Goal("unix-short", _BOTH, ("selector",), ("uvloop-lines",), 1.0),
    Goal("sleep", ("short C=500",), ("thread",), ("ss-thread",), 2.1),
    Goal("sleep", ("persistent C=500",), ("thread",), ("ss-thread",), 1.0),
    Goal("http", ("close C=16",), ("http-thread", "http-thread-pool"), ("http.server",), 2.0),
    Goal("http", ("keep-alive C=16",), ("http-thread", "http-thread-pool"), ("http.server",), 20.0),
    Goal("bulk", ("1 connection",), ("thread-pool",), ("ss-thread",), 1.0),
    Goal("bulk", ("1 connection",), ("selector-chunks",), ("uvloop",), 1.0),
    Goal("start", ("import", "first byte"), ("thread-pool",), ("asyncio",), 0.8, at_most=True),
    Goal("memory", ("idle",), ("selector",), ("asyncio-lines",), 1.0, at_most=True),
    Goal("memory", ("idle",), ("pool-parked",), ("ss-thread",), 0.1, at_most=True),
    *(Goal("drain", ("idle",), (name,), (), 10.0, at_most=True) for name in ("sync", *_POOLS, "fork", "process-pool")),
)


def judge(found: Findings, goals: tuple[Goal, ...] = GOALS) -> list[str]:
    """The goals, as far as they were measured: one line each."""
    return [line for goal in goals for line in _lines(goal, found.get(goal.workload, {}))]


def _lines(goal: Goal, points: Mapping[str, Mapping[str, Mapping[int, object]]]) -> Iterator[str]:
    for point in goal.points:
        ours = _best(goal.ours, points.get(point, {}), goal.at_most)
        theirs = _best(goal.theirs, points.get(goal.against or point, {}), goal.at_most)
        if ours and not goal.theirs:
            yield _of_value(goal, point, ours)
        elif ours and theirs:
            yield from _of_ratio(goal, point, ours, theirs, points)


def _of_value(goal: Goal, point: str, ours: tuple[str, Values]) -> str:
    name, values = ours
    worst = max(values.values()) if goal.at_most else min(values.values())
    mark = _mark(goal, worst, level=1.0)
    return f"{mark} {goal.workload} {point}: {name} at {worst:.2f}, {goal.text}"


def _of_ratio(
    goal: Goal,
    point: str,
    ours: tuple[str, Values],
    theirs: tuple[str, Values],
    points: Mapping[str, Mapping[str, Mapping[int, object]]],
) -> Iterator[str]:
    ratio: Ratio | None = ratio_of(ours[1], theirs[1])
    if ratio is None:
        return
    behind = f" at {goal.against}" if goal.against else ""
    by_cpu = None if behind else ratio_by_cpu(points[point][ours[0]], points[point][theirs[0]])
    text = f"{goal.workload} {point}: {ours[0]} at {ratio} x {theirs[0]}{behind}, {goal.text}"
    yield f"{_mark(goal, ratio.middle)} {text}" + (f"; by CPU {by_cpu}" if by_cpu else "")


def _best(
    names: tuple[str, ...], samples: Mapping[str, Mapping[int, object]], at_most: bool
) -> tuple[str, Values] | None:
    """The one with the best median, and its values."""
    found = {name: values for name in names if (values := values_of(samples.get(name, {})))}
    if not found:
        return None
    best = (min if at_most else max)(found, key=lambda name: median(found[name].values()))
    return best, found[best]


def _mark(goal: Goal, value: float, level: float = LEVEL) -> str:
    share = goal.times / max(value, 1e-9) if goal.at_most else value / goal.times
    return "reached" if share >= 1 else "level  " if share >= level else "MISSED "
