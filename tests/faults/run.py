"""The catalogue of faults, against real servers: a table of scenarios and dispatchers.

    python tests/faults/run.py                                     everything
    python tests/faults/run.py --quick                             what continuous integration runs, too
    python tests/faults/run.py --only slowloris,burst --on pool    some of it
    python tests/faults/run.py --markdown                          the table for a page
    python tests/faults/run.py --on stdlib-thread,peer-gevent      what others do

A cell is ``ok``, ``FAILED``, or ``-`` where the scenario does not apply; reasons and failures are told below.  The exit
status is 1 where something failed.  Traffic stays on the loopback.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from time import monotonic

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from peers import PEERS  # noqa: E402
from scenario import DISPATCHERS, ELSEWHERE, SCENARIOS, Scenario  # noqa: E402

for _path in sorted((HERE / "catalogue").glob("[a-z]_*.py")):
    importlib.import_module(f"catalogue.{_path.stem}")


#: Whose scenarios those of others are tried with.
LIKE = {
    "stdlib-sync": {"sync"},
    "stdlib-thread": {"thread"},
    "stdlib-fork": {"fork"},
    "peer-asyncio": {"asyncio"},
    "peer-gevent": {"asyncio"},
}

#: Scenarios that others cannot be tried with.
OURS = frozenset({"peers_errors", "enobufs", "verify_raises", "per_source", "no_thread", "no_process"})


def run_one(scenario: Scenario, name: str, times: int = 1) -> tuple[str, str]:
    """A cell, and what there is to say of it."""
    if name not in PEERS and name not in scenario.on:
        return "-", scenario.reason
    if name in PEERS and not LIKE[name] & scenario.on:
        return "-", scenario.reason
    if name in PEERS and scenario.name in OURS:
        return "-", "it is brought about by way of Tricorn's own parts"
    try:
        for _ in range(times):
            scenario.run(DISPATCHERS.get(name, name))
    except NotImplementedError as error:
        return "-", str(error)
    except Exception as error:
        if "is not tried over" in str(error):
            return "-", "only its TCP server is tried"
        return "FAILED", f"{type(error).__name__}: {error}"
    return "ok", ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="names of scenarios")
    parser.add_argument("--on", default=",".join(DISPATCHERS), help="names of dispatchers")
    parser.add_argument("--times", type=int, default=1, help="how often each cell is tried")
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    only = set(filter(None, given.only.split(",")))
    chosen = [each for each in SCENARIOS if (not only or each.name in only) and (each.quick or not given.quick)]
    chosen.sort(key=lambda each: (each.number, each.name))
    columns = given.on.split(",")
    began, remarks, failed = monotonic(), [], 0
    width = max(len(each.name) for each in chosen) + 4
    if given.markdown:
        print("| scenario |", " | ".join(columns), "|\n| --- |" + " --- |" * len(columns))
    else:
        print(" " * width, *(f"{column:>14}" for column in columns))
    for each in chosen:
        cells = []
        for column in columns:
            cell, words = run_one(each, column, given.times)
            cells.append(cell)
            failed += cell == "FAILED"
            if words:
                remarks.append(f"{each.name} on {column}: {cell}: {words}")
        if given.markdown:
            print(f"| {each.number} {each.title} |", " | ".join(cells), "|", flush=True)
        else:
            print(f"{each.number:>2} {each.name:<{width - 3}}", *(f"{cell:>14}" for cell in cells), flush=True)
    print(f"\n{len(chosen)} scenarios, {failed} cells failed, {monotonic() - began:.0f} s", end="")
    print(f"; {len(ELSEWHERE)} further entries have tests elsewhere" if not given.quick else "")
    print("\n".join(sorted(set(remarks), key=remarks.index)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
