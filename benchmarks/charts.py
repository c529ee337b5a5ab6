"""Charts of what `run.py` found: one SVG file for each workload, drawn without any library.

    python benchmarks/charts.py                                 from benchmarks/out/run.json to docs/charts/
    python benchmarks/charts.py --json some.json --to /tmp      from elsewhere, to elsewhere
    python benchmarks/charts.py tcp-short http                  some of the workloads

A bar is the median over the rounds, the thin line across its end the least and the most.  Tricorn, the standard
library and other projects have a colour each, whichever workload it is; C is grey, and where it is far ahead its bar is
cut at the edge, with an arrow behind the number.  The background is white, so that dark pages leave it legible.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

from contenders import CONTENDERS, LIMIT, PEER, STDLIB, TRICORN
from harness import HERE, OUT
from measures import MEASURES
from workloads import WORKLOADS

CHARTS = HERE.parent / "docs" / "charts"

#: Colours that colour-blind readers can tell apart: Okabe and Ito's.
COLOURS = {TRICORN: "#0072B2", STDLIB: "#E69F00", PEER: "#009E73", LIMIT: "#9A9A9A"}
LEGEND = {TRICORN: "Tricorn", STDLIB: "standard library", PEER: "other projects", LIMIT: "C, for comparison"}

WIDTH, MARGIN, LEGEND_AT, TOP = 900, 20, 76, 94
ROW, BAR = 19, 13
LABEL, VALUE = 150, 70
PANEL_HEAD = 30

DOCUMENT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" \
role="img" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="12">
<title>{title}</title>
<rect width="{width}" height="{height}" rx="6" fill="#FFFFFF" stroke="#D0D7DE"/>
<text x="{margin}" y="28" font-size="16" font-weight="600" fill="#1F2328">{title}</text>
<text x="{margin}" y="46" fill="#1F2328">{what}</text>
<text x="{margin}" y="63" fill="#57606A">{how}</text>
{body}
</svg>
"""
TEXT = '<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>'
RECT = '<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{fill}"/>'
WHISKER = '<path d="M{least:.1f} {y:.1f}H{most:.1f}" stroke="#1F2328" stroke-width="1" opacity="0.55"/>'


@dataclass(frozen=True)
class Bar:
    """One contender at one point."""

    name: str
    family: str
    middle: float
    least: float
    most: float


@dataclass(frozen=True)
class Panel:
    """One point: its bars, the best first."""

    label: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> int:
        """In pixels."""
        return PANEL_HEAD + ROW * len(self.bars)

    @property
    def scale(self) -> float:
        """The value at the right edge: C does not count."""
        counted = [bar for bar in self.bars if bar.family != LIMIT] or list(self.bars)
        return max(bar.most for bar in counted) or 1.0


def text(x: float, y: float, content: str, fill: str = "#1F2328", anchor: str = "start", weight: int = 400) -> str:
    """A line of text."""
    return TEXT.format(x=x, y=y, text=escape(content), fill=fill, anchor=anchor, weight=weight)


def panel_of(label: str, found: Mapping[str, Sequence[float]], less_is_better: bool) -> Panel:
    """The bars of one point."""
    bars = [
        Bar(name, CONTENDERS[name].family, median(values), min(values), max(values))
        for name, values in found.items()
        if values and name in CONTENDERS
    ]
    bars.sort(key=lambda bar: bar.middle if less_is_better else -bar.middle)
    return Panel(label, tuple(bars))


def written(value: float) -> str:
    """A number with as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"


def draw_bar(bar: Bar, x: float, y: float, room: float, scale: float) -> list[str]:
    """One row: name, bar, and number."""
    cut = bar.middle > scale
    length = room * min(bar.middle / scale, 1.0)
    ours = bar.family == TRICORN
    parts = [
        text(x + LABEL - 8, y + BAR - 2, bar.name, anchor="end", weight=600 if ours else 400),
        RECT.format(x=x + LABEL, y=y, width=max(length, 1.0), height=BAR, fill=COLOURS[bar.family]),
    ]
    end = length
    if bar.most > bar.least and not cut:
        least, most = (x + LABEL + room * min(value / scale, 1.0) for value in (bar.least, bar.most))
        parts.append(WHISKER.format(least=least, most=most, y=y + BAR / 2))
        end = most - x - LABEL
    number = written(bar.middle) + (" \N{RIGHTWARDS ARROW}" if cut else "")
    return [*parts, text(x + LABEL + end + 5, y + BAR - 2, number, fill="#57606A")]


def draw_panel(panel: Panel, x: float, y: float, width: float) -> list[str]:
    """All rows of one point."""
    parts = [text(x + LABEL, y + 18, panel.label, weight=600)]
    room = width - LABEL - VALUE
    for number, bar in enumerate(panel.bars):
        parts += draw_bar(bar, x, y + PANEL_HEAD + number * ROW, room, panel.scale)
    return parts


def legend(families: set[str]) -> list[str]:
    """What the colours mean."""
    parts, x = [], float(MARGIN)
    for family, name in LEGEND.items():
        if family in families:
            parts.append(RECT.format(x=x, y=LEGEND_AT, width=12, height=12, fill=COLOURS[family]))
            parts.append(text(x + 17, LEGEND_AT + 10, name))
            x += 35 + 6.6 * len(name)
    return parts


def chart(title: str, what: str, how: str, panels: Sequence[Panel]) -> str:
    """The whole file: panels two by two."""
    columns = min(len(panels), 2)
    width = (WIDTH - 2 * MARGIN) / columns
    body, y = legend({bar.family for panel in panels for bar in panel.bars}), float(TOP)
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        for column, panel in enumerate(row):
            body += draw_panel(panel, MARGIN + column * width, y, width)
        y += max(panel.height for panel in row) + 10
    return DOCUMENT.format(
        width=WIDTH,
        height=int(y + 8),
        margin=MARGIN,
        title=escape(title),
        what=escape(what),
        how=escape(how),
        body="\n".join(body),
    )


def charts_of(whole: Mapping[str, object]) -> dict[str, str]:
    """The files' texts, by workload."""
    machine = whole["environment"]
    where = f"CPython {machine['python']}, Linux {machine['linux'].split('-')[0]}, {machine['machine']}"
    where += f", {machine['rounds']} rounds" if machine.get("rounds") else ""
    found = {}
    for name, points in whole["samples"].items():
        rates = {
            point: {who: [each["rate"] for each in taken] for who, taken in all_.items()}
            for point, all_ in points.items()
        }
        panels = [panel_of(point, samples, less_is_better=False) for point, samples in rates.items()]
        workload = WORKLOADS.get(name)
        if workload and panels:
            found[name] = chart(name, workload.what, f"{workload.unit}, more is better; {where}", panels)
    for name, points in whole["measures"].items():
        panels = [panel_of(point, values, less_is_better=True) for point, values in points.items()]
        measure = MEASURES.get(name)
        if measure and panels:
            found[name] = chart(name, measure.what, f"{measure.unit}, less is better; {where}", panels)
    return found


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help="default: all that were measured")
    parser.add_argument(
        "--json", type=Path, nargs="+", default=[OUT / "run.json"], help="what run.py wrote; the last counts"
    )
    parser.add_argument("--to", type=Path, default=CHARTS, help="a folder")
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for each in given.json:
        files.update(charts_of(json.loads(each.read_text())))
    for name, content in files.items():
        if not given.workloads or name in given.workloads:
            (given.to / f"{name}.svg").write_text(content)
            print(given.to / f"{name}.svg")


if __name__ == "__main__":
    main()
