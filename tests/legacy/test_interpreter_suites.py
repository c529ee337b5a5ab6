"""The interpreter's own tests of `socketserver`, and of the modules on it: on the original, and on the facade.

The suites belong to the interpreter, and are run from there.  Each run is a process of its own, in a directory of its
own; for the facade's, `tricorn.socketserver.install` is called before anything else is imported.  Both runs of a
suite go on at the same time, and report which tests ran, which were skipped, and which failed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

SUITES = ("test_docxmlrpc", "test_httpservers", "test_logging", "test_socketserver", "test_wsgiref", "test_xmlrpc")
#: Seconds that one run may take; the longest, test_logging, takes about 15 on an idle machine.
LIMIT_S = 240

DRIVER = """
import sys
suite, module, report = sys.argv[1:]
if module == "facade":
    from tricorn.socketserver import install
    install()

import http.server, importlib, json, logging.config, socketserver, unittest, wsgiref.simple_server, xmlrpc.server
from test import support

support.use_resources = ["cpu", "network", "walltime"]  # as from `python -m test -u`; here, "network" is loopback

def name_of(test):
    # a subtest's own parameters may hold an address
    return getattr(test, "test_case", test).id()

class Result(unittest.TextTestResult):
    def startTest(self, test):
        super().startTest(test)
        started.append(test.id())

started = []
suite = importlib.import_module("test." + suite)
loaded = unittest.defaultTestLoader.loadTestsFromModule(suite)
result = unittest.TextTestRunner(resultclass=Result, verbosity=2).run(loaded)
with open(report, "w") as file:
    json.dump({
        "from": suite.__file__,
        "stands on": [
            sys.modules["socketserver"].__name__,
            http.server.HTTPServer.__mro__[-2].__init__.__globals__["__name__"],
            logging.config.ThreadingTCPServer.__mro__[-2].__init__.__globals__["__name__"],
            wsgiref.simple_server.WSGIServer.__mro__[-2].__init__.__globals__["__name__"],
            xmlrpc.server.SimpleXMLRPCServer.__mro__[-3].__init__.__globals__["__name__"],
        ],
        "run": result.testsRun,
        "tests": sorted(started),
        "skipped": sorted(name_of(test) for test, _ in result.skipped),
        "failures": sorted(name_of(test) for test, _ in result.failures),
        "errors": sorted(name_of(test) for test, _ in result.errors),
        "expected failures": sorted(name_of(test) for test, _ in result.expectedFailures),
        "unexpected successes": sorted(name_of(test) for test in result.unexpectedSuccesses),
    }, file)
"""


def is_here(suite: str) -> bool:
    """Whether this interpreter came with the suite; a package of the name `test` from elsewhere does not count."""
    try:
        found = importlib.util.find_spec(f"test.{suite}")
    except ModuleNotFoundError:
        return False
    return found is not None and Path(found.origin or "").is_relative_to(sysconfig.get_path("stdlib"))


def run_both(suite: str, place: Path) -> dict[str, dict[str, Any]]:
    """What each run reported, and under "log" what it printed."""
    running = {}
    for module in ("original", "facade"):
        (place / module).mkdir()
        command = [sys.executable, "-P", "-c", DRIVER, suite, module, str(place / f"{module}.json")]
        with open(place / f"{module}.log", "wb") as log:
            running[module] = subprocess.Popen(
                command, cwd=place / module, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
    try:
        for process in running.values():
            process.wait(LIMIT_S)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    reports = {}
    for module in running:
        log, report = (place / f"{module}.log").read_text(errors="replace"), place / f"{module}.json"
        assert report.exists(), f"{suite} on the {module} came to no end:\n{log}"
        reports[module] = {**json.loads(report.read_text()), "log": log}
    return reports


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize("suite", SUITES)
def test_suite_does_on_the_facade_what_it_does_on_the_original(suite: str, tmp_path: Path) -> None:
    """The same tests run, the same are skipped, and none fails that does not fail on the original too."""
    if not is_here(suite):
        pytest.skip(f"this interpreter came without test.{suite}")
    reports = run_both(suite, tmp_path)
    original, facade = reports["original"], reports["facade"]
    assert set(original["stands on"]) == {"socketserver"}
    assert all(name.startswith("tricorn.") for name in facade["stands on"]), facade["stands on"]
    assert facade["run"] > 0
    for what in ("from", "run", "tests", "skipped", "expected failures", "unexpected successes"):
        assert facade[what] == original[what], what
    failed = {what: sorted(set(facade[what]) - set(original[what])) for what in ("failures", "errors")}
    assert failed == {"failures": [], "errors": []}, facade["log"]
