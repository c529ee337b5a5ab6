"""Real programs that subclass `socketserver`'s classes: their own tests on the original, and on the facade.

    python -m tox -e real-programs                    all of them
    python -m tox -e real-programs -- dnslib acme     some

The programs are installed, as requirements.txt has them; the tests come from the source distribution of the same
version, which pip downloads.  Both runs are processes of their own, one after the other; for the facade's, a line in
the environment's site-packages installs it in each interpreter that the tests start, before anything is imported: what
is on a command line, or in PYTHONPATH, does not reach the servers that werkzeug's tests start.  Prints a table; the
exit status tells whether anything failed on the facade that did not fail on the original, or was skipped
only there.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Seconds that one run of one program's tests may take.
LIMIT_S = 900

#: Seconds that one test may take.
TEST_LIMIT_S = 60

# Tricorn has a pytest plugin, and is imported before pytest: pytest warns that it comes too late for its assertions.
_PLUGINS = ("-p", "no:cacheprovider", "-p", "no:tricorn", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_PYTEST = ("-m", "pytest", "-q", *_PLUGINS, f"--timeout={TEST_LIMIT_S}", "--tb=short", "--junitxml={report}")


@dataclass(frozen=True)
class Program:
    """A program, and how its tests are run from its source distribution."""

    name: str
    #: What of `socketserver` it stands on.
    uses: str
    #: The interpreter's arguments; ``{report}`` is where JUnit's XML goes.  Without it, unittest's output is read.
    arguments: tuple[str, ...]
    #: Where in the distribution they are run.
    folder: str = "."

    @property
    def version(self) -> str:
        """The installed one."""
        return importlib.metadata.version(self.name)


_DNSLIB_MODULES = ("bimap", "bit", "buffer", "digparser", "dns", "label", "lex", "ranges", "server", "test_decode")
PROGRAMS = (
    Program(
        "dnslib",
        "UDPServer, TCPServer, ThreadingMixIn",
        (
            *(*_PYTEST, "--doctest-modules", "-o", "doctest_optionflags=ELLIPSIS IGNORE_EXCEPTION_DETAIL"),
            *("--deselect", "dnslib/test_decode.py::test_generator"),  # makes tests, is none
            *(f"dnslib/{name}.py" for name in _DNSLIB_MODULES),
        ),
    ),
    Program("werkzeug", "ThreadingMixIn, ForkingMixIn, http.server", (*_PYTEST, "-p", "no:localserver", "tests")),
    Program("prometheus_client", "ThreadingMixIn, wsgiref", (*_PYTEST, "tests")),
    Program("acme", "TCPServer, http.server, TLS", (*_PYTEST, "src/acme/_internal/tests")),
    Program("pytest-localserver", "http.server through werkzeug", (*_PYTEST, "tests")),
    Program("sshtunnel", "TCPServer, UnixStreamServer, ThreadingMixIn", (*_PYTEST, "tests")),
    Program(
        "django",
        "ThreadingMixIn, wsgiref",
        ("runtests.py", "--parallel=1", "-v2", "servers", "builtin_server", "wsgi", "staticfiles_tests", "test_client"),
        "tests",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """Every test by its name, and what became of it; a name may come more than once."""

    tests: Counter[tuple[str, str]]

    def __str__(self) -> str:
        counts = Counter[str]()
        for (_, what), times in self.tests.items():
            counts[what] += times
        return ", ".join(f"{counts[what]} {what}" for what in ("passed", "failed", "skipped") if counts[what]) or "none"

    def of(self, *kinds: str) -> Counter[tuple[str, str]]:
        """Those with this outcome."""
        return Counter({key: times for key, times in self.tests.items() if key[1] in kinds})


def from_xml(report: Path) -> Outcome:
    """As pytest reports it."""
    tests: Counter[tuple[str, str]] = Counter()
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        what = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        tests[f"{case.get('classname')}.{case.get('name')}", what] += 1
    return Outcome(tests)


_UNITTEST_LINE = re.compile(
    r"^(test\w+ \([\w.]+\)).*?\.\.\. (?:.*?)(ok|skipped|FAIL|ERROR|expected failure)\b", re.DOTALL | re.MULTILINE
)
_WORDS = {"ok": "passed", "expected failure": "passed", "skipped": "skipped", "FAIL": "failed", "ERROR": "failed"}


def from_text(output: str) -> Outcome:
    """As unittest prints it with two -v; nothing unless it is clear what became of every test."""
    tests = Counter((name, _WORDS[what]) for name, what in _UNITTEST_LINE.findall(output))
    ran = re.search(r"^Ran (\d+) tests? in", output, re.MULTILINE)
    skipped = Outcome(tests).of("skipped").total()  # with a whole class, they may not count as run
    return Outcome(tests if ran and tests.total() - skipped <= int(ran[1]) <= tests.total() else Counter())


@contextmanager
def facade_at_start() -> Iterator[None]:
    """Every interpreter of this environment runs at_start.py meanwhile, if its environment variables say so."""
    line = Path(sysconfig.get_path("purelib")) / "zz_tricorn_real_programs.pth"
    source = repr(str(HERE / "at_start.py"))
    line.write_text(f"import os; os.environ.get('TRICORN_REAL_PROGRAMS') == 'facade' and exec(open({source}).read())\n")
    try:
        yield
    finally:
        line.unlink()


def run(program: Program, module: str, source: Path, place: Path) -> Outcome:
    """One program's tests on the ``original`` or on the ``facade``; what they print is kept in ``place``."""
    report, witness, log = (place / f"{program.name}-{module}.{kind}" for kind in ("xml", "witness", "log"))
    command = [sys.executable, *(each.format(report=report) for each in program.arguments)]
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "TRICORN_REAL_PROGRAMS": module,
        "TRICORN_WITNESS": str(witness),
    }
    with open(log, "wb") as output:
        subprocess.run(
            command,
            cwd=source / program.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
        )
    said = log.read_text(errors="replace")
    if module == "facade" and "tricorn.socketserver" not in (witness.read_text() if witness.exists() else ""):
        sys.exit(f"{program.name}: the facade was not in place:\n{said}")
    outcome = from_xml(report) if report.exists() else from_text(said)
    if not outcome.tests:
        sys.exit(f"{program.name}: no test ran on the {module}:\n{said[-5000:]}")
    return outcome


def new_troubles(original: Outcome, facade: Outcome) -> list[str]:
    """Whatever failed or was skipped on the facade alone, and what did not run there at all."""
    worse = facade.of("failed", "skipped") - original.of("failed", "skipped")
    names = [Counter(name for name, _ in each.tests.elements()) for each in (original, facade)]
    return [f"{name}: {what}" for name, what in worse] + [f"{name}: not run" for name in names[0] - names[1]]


def download(program: Program, place: Path) -> Path:
    """The unpacked source distribution of the installed version."""
    wanted = f"{program.name}=={program.version}"
    into = place / "sources" / program.name
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        program.name,
        "--dest",
        into,
    ]
    subprocess.run([*command, wanted], check=True)
    [archive] = into.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
    [source] = [path for path in into.iterdir() if path.is_dir()]
    return source


def main() -> None:
    """Run what was asked for, and print the table."""
    known = {program.name: program for program in PROGRAMS}
    if unknown := set(sys.argv[1:]) - set(known):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    print(f"Python {sys.version.split()[0]}\n", flush=True)
    print(
        "| program | stands on | tests on the original | on the facade | worse on the facade |",
        "|---|---|---|---|--:|",
        sep="\n",
    )
    troubles: dict[str, list[str]] = {}
    with facade_at_start(), tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for name in sys.argv[1:] or known:
            program = known[name]
            source = download(program, place)
            original, facade = (run(program, module, source, place) for module in ("original", "facade"))
            worse = new_troubles(original, facade)
            if worse:  # a test that is at the mercy of chance (sshtunnel's pick a port blindly) is seldom so twice
                again = new_troubles(original, run(program, "facade", source, place))
                worse = [each for each in worse if each in again]
            troubles[name] = worse
            print(f"| {name} {program.version} | {program.uses} | {original} | {facade} | {len(worse)} |", flush=True)
            if worse:
                print((place / f"{name}-facade.log").read_text(errors="replace")[-20_000:], file=sys.stderr)
    for name, worse in troubles.items():
        for each in worse:
            print(f"worse on the facade: {name}: {each}")
    sys.exit(any(troubles.values()))


if __name__ == "__main__":
    main()
