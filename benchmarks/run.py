"""The benchmark: Tricorn's servers beside the standard library's and those of other projects.

    python benchmarks/run.py                                     everything, about an hour
    python benchmarks/run.py --list                              what there is
    python benchmarks/run.py tcp-short --servers sync,ss-sync    one workload, some of the servers
    python benchmarks/run.py tcp-short --conns 64 --rounds 11    one point, more rounds
    python benchmarks/run.py start memory drain                  what needs no load

Every round starts each server afresh.  Inside a round every point is measured for each server in turn, the order
rotated from round to round, so that the machine's moods hit all alike; ratios are formed inside a round, and the
tables show their median, with the least and the most.  ``x counterpart`` is the ratio to the server that a
dispatcher replaces; ``by CPU`` the same by CPU time for each request, which is steadier where the machine is shared.
Behind a name, ``!``: others were busy during most of its samples; ``^``: the generator was at its limit; ``?``: there
was a sample without a single reply, which is left out of the ratios.  Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from subprocess import SubprocessError
from typing import TypeVar

from contenders import CONTENDERS, Contender, missing
from goals import GOALS, judge
from harness import OUT, Priority, RunningServer, Sample, build_c_server, build_generator, end_on_sigterm, sample
from measures import MEASURES, Measure
from tables import table_of, table_of_values
from workloads import WORKLOADS, Point, Workload

#: Point to contender to round to sample, or to value.
Results = dict[str, dict[str, dict[int, Sample]]]
Values = dict[str, dict[str, dict[int, float]]]

_Name = TypeVar("_Name", str, Contender)
_told: set[str] = set()


def tell(text: str) -> None:
    """Say on the error output what happens meanwhile."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def leave_out(what: str) -> None:
    """Say once who takes no part, and why."""
    if what not in _told:
        _told.add(what)
        print(f"left out: {what}", flush=True)


def turn(names: Sequence[_Name], number: int) -> list[_Name]:
    """The order of a round: rotated, and every other one backwards."""
    start = number * 3 % max(len(names), 1)
    turned = [*names[start:], *names[:start]]
    return turned[::-1] if number % 2 else turned


def present(contenders: Sequence[Contender]) -> list[Contender]:
    """Those whose packages are here."""
    for each in contenders:
        if lacking := missing(each):
            leave_out(f"{each.name}, which needs {', '.join(lacking)}: not installed")
    return [each for each in contenders if not missing(each)]


def start(workload: Workload, contenders: list[Contender], stack: ExitStack) -> dict[str, RunningServer]:
    """A server for each contender; those that do not start are left out."""
    running = {}
    for each in contenders:
        command, log = workload.command(each), f"{each.name}-{workload.proto}"
        try:
            running[each.name] = stack.enter_context(RunningServer(command, cpu=workload.cpus[0], log=log))
        except RuntimeError as error:
            leave_out(f"{each.name}: {error}")
    return running


def run_round(workload: Workload, points: list[Point], given: argparse.Namespace, number: int, into: Results) -> None:
    """One round of a workload: every server at every point."""
    order = turn(present(workload.contenders(given.servers)), number)
    with ExitStack() as stack:
        running = start(workload, order, stack)
        for point in points:
            for each in order:
                if each.name not in running or not workload.takes(each, point):
                    continue
                options = [
                    *workload.load(each, point),
                    "--seconds",
                    str(given.seconds),
                    "--warm",
                    str(max(given.warm, point.warm)),
                ]
                options += ["--bytes", str(given.mib << 20)] + ["--spin"] * (workload.split and not given.no_spin)
                try:
                    taken = sample(running[each.name], options, cpu=workload.cpus[1])
                except SubprocessError as error:
                    leave_out(f"{each.name} at {point.label}, round {number + 1}: {error}")
                else:
                    into[point.label][each.name][number] = taken


def run_workload(name: str, given: argparse.Namespace) -> Results:
    """All rounds of a workload, and its tables."""
    workload = WORKLOADS[name]
    points = [each for each in workload.points if not given.conns or each.conns in given.conns]
    results: Results = defaultdict(lambda: defaultdict(dict))
    for number in range(given.rounds if points else 0):
        run_round(workload, points, given, number, results)
        tell(f"{name}: round {number + 1} of {given.rounds}")
    print(f"\n## {name}: {workload.what}\n")
    print(f"{given.rounds} rounds of {given.seconds} s; processors: {'one each' if workload.split else 'shared'}")
    for label, samples in results.items():
        table = table_of(samples, workload.reference, workload.unit)
        print(f"\n### {name} {label}\n", *table, sep="\n", flush=True)
    return results


def run_measure(name: str, given: argparse.Namespace) -> Values:
    """All rounds of a measure, and its tables."""
    measure = MEASURES[name]
    names = [each.name for each in present([CONTENDERS[each] for each in measure.names if each in given.servers])]
    rounds = measure.most_rounds if name == "drain" else min(given.rounds, measure.most_rounds)
    values: Values = defaultdict(lambda: defaultdict(dict))
    for number in range(rounds):
        for label, value_of in measure.points.items():
            for each in turn(names, number):
                try:
                    value = value_of(each)
                except (RuntimeError, OSError, SubprocessError) as error:
                    leave_out(f"{each} in {name}: {error}")
                    continue
                if value is not None:
                    values[label][each][number] = value
    tell(f"{name}: {rounds} rounds")
    print(f"\n## {name}: {measure.what}")
    for label, found in values.items():
        print(f"\n### {name} {label}\n", *table_of_values(found, measure.reference, measure.unit), sep="\n", flush=True)
    return values


def list_all() -> None:
    """Names, points and contenders of all there is."""
    for name, workload in WORKLOADS.items():
        _list(name, workload, [each.label for each in workload.points])
    for name, measure in MEASURES.items():
        _list(name, measure, list(measure.points))


def _list(name: str, what: Workload | Measure, points: list[str]) -> None:
    goals = sum(len(each.points) for each in GOALS if each.workload == name)
    print(f"{name}: {what.what}\n    points: {', '.join(points)}\n    servers: {', '.join(what.names)}")
    print(f"    reference: {what.reference}; goals: {goals}")


def names_in(known: dict[str, object]) -> Callable[[str], list[str]]:
    """A reader of comma-separated names for argparse."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return read


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*WORKLOADS, *MEASURES]
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--servers", type=names_in(CONTENDERS), default=list(CONTENDERS), help="comma-separated")
    parser.add_argument("--conns", type=lambda text: [int(each) for each in text.split(",")], help="only these numbers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each sample")
    parser.add_argument("--warm", type=float, default=0.15, help="seconds before each sample that do not count")
    parser.add_argument("--mib", type=int, default=256, help="of the bulk")
    parser.add_argument("--no-spin", action="store_true", help="let the generator sleep while it has nothing to do")
    parser.add_argument("--nice", type=int, default=0, help="below 0: go before everybody else (root only)")
    parser.add_argument("--json", type=Path, default=OUT / "run.json", help="where all samples go, for charts.py too")
    given = parser.parse_args()
    given.workloads = given.workloads or known
    unknown = set(given.workloads) - set(known)
    if unknown:
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return given


def write_json(
    given: argparse.Namespace, results: dict[str, Results], values: dict[str, Values], verdicts: list[str]
) -> None:
    """Every sample, for `charts.py` and for whoever wants to look closer."""
    samples = {
        workload: {
            point: {name: [asdict(each) for each in rounds.values()] for name, rounds in samples.items()}
            for point, samples in points.items()
        }
        for workload, points in results.items()
    }
    plain = {
        measure: {
            point: {name: list(rounds.values()) for name, rounds in found.items()} for point, found in points.items()
        }
        for measure, points in values.items()
    }
    where = {"python": platform.python_version(), "linux": platform.release(), "machine": platform.machine()}
    where |= {"rounds": given.rounds, "seconds": given.seconds}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    whole = {"environment": where, "samples": samples, "measures": plain, "goals": verdicts}
    given.json.write_text(json.dumps(whole, indent=1))


def main() -> None:
    """Run what was asked for."""
    end_on_sigterm()
    given = arguments()
    if given.list:
        list_all()
        return
    Priority.nice = given.nice
    build_generator()
    build_c_server()
    print(f"Python {platform.python_version()}, Linux {platform.release()}")
    results: dict[str, Results] = {}
    values: dict[str, Values] = {}
    try:
        for name in given.workloads:
            if name in WORKLOADS:
                results[name] = run_workload(name, given)
            else:
                values[name] = run_measure(name, given)
    finally:
        verdicts = judge({**results, **values})
        write_json(given, results, values, verdicts)
        if verdicts:
            print("\n## goals\n", *verdicts, sep="\n")


if __name__ == "__main__":
    main()
