"""Findings to tables: medians over the rounds, ratios inside a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from contenders import CONTENDERS
from harness import Sample

__all__ = ["Ratio", "Rounds", "Values", "ratio_by_cpu", "ratio_of", "table_of", "table_of_values", "values_of"]

#: The samples of one contender at one point, by round.
Rounds = Mapping[int, Sample]
#: The same, of what is compared alone.
Values = Mapping[int, float]


@dataclass(frozen=True)
class Ratio:
    """How many times the other one's value, round by round."""

    middle: float
    least: float
    most: float

    @property
    def spread(self) -> str:
        """From the least to the most."""
        return f"[{self.least:.2f}..{self.most:.2f}]"

    def __str__(self) -> str:
        return f"{self.middle:.2f} {self.spread}"


def values_of(rounds: Mapping[int, object]) -> Values:
    """Rates of samples, and plain values as they are; what is 0 measured nothing."""
    found = {number: each.rate if isinstance(each, Sample) else each for number, each in rounds.items()}
    return {number: value for number, value in found.items() if value}


def ratio_of(ours: Values, theirs: Values) -> Ratio | None:
    """The ratios of the values, of the rounds that both have one in."""
    return _ratio([ours[number] / theirs[number] for number in ours if number in theirs])


def ratio_by_cpu(ours: Mapping[int, object], theirs: Mapping[int, object]) -> Ratio | None:
    """How many times as many requests the same CPU time serves."""
    spent = [
        {number: each.server_us for number, each in rounds.items() if isinstance(each, Sample) and each.rate}
        for rounds in (theirs, ours)
    ]
    return ratio_of(*({number: value for number, value in each.items() if value} for each in spent))


def _ratio(found: list[float]) -> Ratio | None:
    return Ratio(median(found), min(found), max(found)) if found else None


def head_of(*columns: str) -> list[str]:
    """The first two lines of a Markdown table: names to the left, numbers to the right."""
    return [f"| {' | '.join(columns)} |", f"|---{'|--:' * (len(columns) - 1)}|"]


def table_of(samples: Mapping[str, Rounds], reference: str, unit: str) -> list[str]:
    """A Markdown table of one point, quickest first; for the marks see `_marks`."""
    head = head_of(
        *("server", unit, f"x {reference}", "[min..max]", "x counterpart", "[min..max]", "by CPU", "CPU us"),
        *("p50 us", "p99 us", "oldest ms", "errors"),
    )
    ordered = sorted(samples, key=lambda name: -_middle(samples[name], "rate"))
    return [*head, *(_row(name, samples, reference) for name in ordered)]


def _middle(rounds: Rounds, what: str) -> float:
    return median(getattr(each, what) for each in rounds.values())


def _row(name: str, samples: Mapping[str, Rounds], reference: str) -> str:
    rounds = samples[name]
    counterpart = CONTENDERS[name].counterpart
    theirs = samples.get(counterpart, {})
    by_reference = ratio_of(values_of(rounds), values_of(samples.get(reference, {})))
    ratio, by_cpu = ratio_of(values_of(rounds), values_of(theirs)), ratio_by_cpu(rounds, theirs)
    cells = (
        name + _marks(rounds),
        f"{_middle(rounds, 'rate'):,.0f}",
        f"{by_reference.middle:.2f}" if by_reference else "-",
        by_reference.spread if by_reference else "-",
        f"{ratio.middle:.2f} {counterpart}" if ratio else "-",
        ratio.spread if ratio else "-",
        f"{by_cpu.middle:.2f}" if by_cpu else "-",
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


def table_of_values(found: Mapping[str, Values], reference: str, unit: str) -> list[str]:
    """A Markdown table of what is the better the less of it there is, least first."""
    lines = head_of("server", unit, "least", "most", f"x {reference}", "[min..max]", "times")
    for name in sorted(found, key=lambda name: median(found[name].values())):
        values = list(found[name].values())
        ratio = ratio_of(values_of(found[name]), values_of(found.get(reference, {})))
        compared = f"{ratio.middle:.2f} | {ratio.spread}" if ratio else "- | -"
        middle = f"{median(values):,.2f} | {min(values):,.2f} | {max(values):,.2f}"
        lines.append(f"| {name} | {middle} | {compared} | {len(values)} |")
    return lines
