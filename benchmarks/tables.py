"""Samples to tables: medians over the rounds, ratios inside a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from harness import Sample
from workloads import CONTENDERS, DRAIN_GOAL_MS, GOALS, REFERENCE

__all__ = ["Ratio", "Rounds", "judge", "ratio_by_cpu", "ratio_of", "table_of", "table_of_drains"]

#: The samples of one contender at one point, by round.
Rounds = Mapping[int, Sample]

#: As much of a goal as cannot be told from all of it, on a shared machine.
LEVEL = 0.97
HEAD = (
    (
        "| server | requests/s | x counterpart | [min..max] | by CPU | x ss-sync | CPU us | p50 us | p99 us | oldest "
        "| errors |"
    ),
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True)
class Ratio:
    """How many times the other one's rate, round by round."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} [{self.least:.2f}..{self.most:.2f}]"


def ratio_of(ours: Rounds, theirs: Rounds) -> Ratio | None:
    """The ratios of the rates, of the rounds that both have one in."""
    return _ratio([ours[n].rate / theirs[n].rate for n in _alive(ours, theirs)])


def ratio_by_cpu(ours: Rounds, theirs: Rounds) -> Ratio | None:
    """How many times as many requests the same CPU time serves."""
    return _ratio([theirs[n].server_us / ours[n].server_us for n in _alive(ours, theirs) if ours[n].server_us])


def _alive(ours: Rounds, theirs: Rounds) -> list[int]:
    return [number for number in ours if number in theirs and ours[number].rate and theirs[number].rate]


def _ratio(found: list[float]) -> Ratio | None:
    return Ratio(median(found), min(found), max(found)) if found else None


def table_of(samples: Mapping[str, Rounds]) -> list[str]:
    """A Markdown table of one point, quickest first; for the marks see `_marks`."""
    lines = [_row(name, samples) for name in sorted(samples, key=lambda name: -_middle(samples[name], "rate"))]
    return [*HEAD, *lines]


def _middle(rounds: Rounds, what: str) -> float:
    return median(getattr(each, what) for each in rounds.values())


def _row(name: str, samples: Mapping[str, Rounds]) -> str:
    rounds = samples[name]
    counterpart = CONTENDERS[name].counterpart
    ratio = ratio_of(rounds, samples.get(counterpart, {}))
    by_cpu = ratio_by_cpu(rounds, samples.get(counterpart, {}))
    reference = ratio_of(rounds, samples.get(REFERENCE, {}))
    cells = (
        name + _marks(rounds),
        f"{_middle(rounds, 'rate'):,.0f}",
        f"{ratio.middle:.2f} {counterpart}" if ratio else "-",
        f"[{ratio.least:.2f}..{ratio.most:.2f}]" if ratio else "-",
        f"{by_cpu.middle:.2f}" if by_cpu else "-",
        f"{reference.middle:.2f}" if reference else "-",
        f"{_middle(rounds, 'server_us'):.1f}",
        f"{_middle(rounds, 'p50_us'):,.0f}",
        f"{_middle(rounds, 'p99_us'):,.0f}",
        f"{_middle(rounds, 'oldest_us') / 1e3:.1f}",
        str(sum(each.errors for each in rounds.values())),
    )
    return f"| {' | '.join(cells)} |"


def _marks(rounds: Rounds) -> str:
    """``!``: others were busy during most samples; ``^``: the generator was at its limit in most; ``?``: a dead one."""
    dead = any(not each.rate for each in rounds.values())
    noisy, saturated = (sum(getattr(each, what) for each in rounds.values()) for what in ("noisy", "saturated"))
    return "!" * (2 * noisy > len(rounds)) + "^" * (2 * saturated > len(rounds)) + "?" * dead


def table_of_drains(drains: Mapping[str, list[float]]) -> list[str]:
    """How long idle servers took to stop, in milliseconds."""
    lines = ["| server | median ms | max ms | times |", "|---|--:|--:|--:|"]
    for name, seconds in drains.items():
        taken = [1e3 * each for each in seconds]
        lines.append(f"| {name} | {median(taken):.2f} | {max(taken):.2f} | {len(taken)} |")
    return lines


def judge(results: Mapping[str, Mapping[str, Mapping[str, Rounds]]], drains: Mapping[str, list[float]]) -> list[str]:
    """The goals, as far as they were measured: workload, point and contender to samples."""
    lines = []
    for goal in GOALS:
        for point in goal.points:
            samples = results.get(goal.workload, {}).get(point, {})
            counterpart = CONTENDERS[goal.contender].counterpart
            ratio = ratio_of(samples.get(goal.contender, {}), samples.get(counterpart, {}))
            if ratio is not None:
                what = f"{goal.workload} {point}: {goal.contender} at {ratio} x {counterpart}, goal {goal.times}"
                what += f"; by CPU {ratio_by_cpu(samples[goal.contender], samples[counterpart])}"
                lines.append(f"{_mark(ratio.middle / goal.times)} {what}")
    return [*lines, *_judge_drains(drains.items())]


def _judge_drains(drains: Iterable[tuple[str, list[float]]]) -> list[str]:
    return [
        f"{_mark(DRAIN_GOAL_MS / (1e3 * max(taken)), level=1.0)} drain: {name} at most {1e3 * max(taken):.2f} ms, "
        f"goal below {DRAIN_GOAL_MS:.0f}"
        for name, taken in drains
        if CONTENDERS[name].script == "server.py"
    ]


def _mark(share: float, level: float = LEVEL) -> str:
    return "reached" if share >= 1 else "level  " if share >= level else "MISSED "
