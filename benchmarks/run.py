"""The benchmark: Tricorn's dispatchers beside the standard library's servers.

    python benchmarks/run.py                                     everything, about ten minutes
    python benchmarks/run.py tcp-short --servers sync,ss-sync    one workload, some of the servers
    python benchmarks/run.py tcp-short --conns 64 --rounds 11    one point, more rounds
    python benchmarks/run.py drain                               how long idle servers take to stop

Every round starts each server afresh.  Inside a round every point is measured for each server in turn, the order
rotated from round to round, so that the machine's moods hit all alike; ratios are formed inside a round, and the
tables show their median, with the least and the most.  ``x counterpart`` is the ratio to the server that a
dispatcher replaces; ``by CPU`` the same by CPU time for each request, which is steadier where the machine is shared.
Behind a name, ``!``: others were busy during most of its samples; ``^``: the generator was at its limit; ``?``: there
was a sample without a single reply, which is left out of the ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from harness import HERE, OUT, Priority, RunningServer, Sample, build_generator, end_on_sigterm, pinned, sample
from tables import judge, table_of, table_of_drains
from workloads import CONTENDERS, WORKLOADS, Contender, Point, Workload

#: Point to contender to round to sample.
Results = dict[str, dict[str, dict[int, Sample]]]

DRAIN = "drain"


def turn(names: list[Contender], number: int) -> list[Contender]:
    """The order of a round: rotated, and every other one backwards."""
    start = number * 3 % len(names)
    turned = names[start:] + names[:start]
    return turned[::-1] if number % 2 else turned


def run_round(workload: Workload, points: list[Point], given: argparse.Namespace, number: int, into: Results) -> None:
    """One round of a workload: every server at every point."""
    server_cpu, generator_cpu = workload.cpus
    order = turn(workload.contenders(given.servers), number)
    with ExitStack() as stack:
        running = {
            each.name: stack.enter_context(
                RunningServer(workload.command(each), cpu=server_cpu, log=f"{each.name}-{workload.proto}")
            )
            for each in order
        }
        for point in points:
            options = [*point.options, "--seconds", str(given.seconds), "--warm", str(given.warm)]
            options += ["--spin"] * (workload.split and not given.no_spin)
            for each in order:
                taken = sample(running[each.name], options, cpu=generator_cpu)
                into[point.label][each.name][number] = taken


def run_workload(name: str, given: argparse.Namespace) -> Results:
    """All rounds of a workload, and its tables."""
    workload = WORKLOADS[name]
    points = [each for each in workload.points if not given.conns or each.label[2:] in given.conns]
    results: Results = defaultdict(lambda: defaultdict(dict))
    for number in range(given.rounds if points else 0):
        run_round(workload, points, given, number, results)
        print(f"{time.strftime('%H:%M:%S')} {name}: round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    print(f"\n## {name}: {workload.what}\n")
    print(f"{given.rounds} rounds of {given.seconds} s; processors: {'one each' if workload.split else 'shared'}")
    for label, samples in results.items():
        print(f"\n### {name} {label}\n", *table_of(samples), sep="\n", flush=True)
    return results


def run_drains(given: argparse.Namespace) -> dict[str, list[float]]:
    """Idle drains of every server, and their table."""
    drains = {}
    for name in given.servers:
        dispatcher = name if name.startswith("ss-") else CONTENDERS[name].options[1]
        command = [sys.executable, str(HERE / "drain.py"), dispatcher, "--repetitions", str(given.repetitions)]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
            start_new_session=True,
            preexec_fn=pinned(None),
        )
        drains[name] = json.loads(done.stdout)
    print("\n## drain: from the call of drain() (ss-...: shutdown()) on an idle server to its return\n")
    print(*table_of_drains(drains), sep="\n", flush=True)
    return drains


def names_in(known: dict[str, object]) -> object:
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
    known = [*WORKLOADS, DRAIN]
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--servers", type=names_in(CONTENDERS), default=list(CONTENDERS), help="comma-separated")
    parser.add_argument("--conns", type=lambda text: text.split(","), help="only these numbers of connections")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each sample")
    parser.add_argument("--warm", type=float, default=0.15, help="seconds before each sample that do not count")
    parser.add_argument("--no-spin", action="store_true", help="let the generator sleep while it has nothing to do")
    parser.add_argument("--repetitions", type=int, default=20, help="of idle drains")
    parser.add_argument("--nice", type=int, default=0, help="below 0: go before everybody else (root only)")
    parser.add_argument("--json", type=Path, default=OUT / "run.json", help="where all samples go")
    given = parser.parse_args()
    given.workloads = given.workloads or known
    unknown = set(given.workloads) - set(known)
    if unknown:
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return given


def write_json(path: Path, results: dict[str, Results], drains: dict[str, list[float]]) -> None:
    """Every sample, for whoever wants to look closer."""
    plain = {
        workload: {
            point: {name: [asdict(each) for each in rounds.values()] for name, rounds in samples.items()}
            for point, samples in points.items()
        }
        for workload, points in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"samples": plain, "drains": drains}, indent=1))


def main() -> None:
    """Run what was asked for."""
    end_on_sigterm()
    given = arguments()
    Priority.nice = given.nice
    build_generator()
    print(f"Python {platform.python_version()}, Linux {platform.release()}")
    results = {name: run_workload(name, given) for name in given.workloads if name != DRAIN}
    drains = run_drains(given) if DRAIN in given.workloads else {}
    verdicts = judge(results, drains)
    if verdicts:
        print("\n## goals\n", *verdicts, sep="\n")
    write_json(given.json, results, drains)


if __name__ == "__main__":
    main()
