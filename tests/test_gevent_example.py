"""The example plugin as its users get it: a wheel beside ours, in an environment of its own, asked for by name."""

from __future__ import annotations

import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("core", "transports", "strategies", "handlers", "pyproject.toml", "README.md")
EXAMPLE = ROOT / "examples" / "tricorn-gevent"

SERVE_BY_NAME = """
import logging, socket, threading, time
import gevent
from tricorn.server import Server

def shout(connection):
    for line in connection.makefile("rb"):
        gevent.sleep(0.3 if line == b"slow\\n" else 60 if line == b"stuck\\n" else 0)
        connection.send(line.upper())

def client(server):
    return socket.create_connection(server.address, timeout=10)

def ask(connection, line):
    connection.sendall(line)
    assert connection.recv(100) == line.upper()

# many at once, and idle ones do not hold up the end
with Server("tcp://127.0.0.1:0", "gevent?limit=50", shout) as server:
    server.start()
    clients = [client(server) for _ in range(40)]
    for each in clients:
        ask(each, b"hi\\n")
    began = time.monotonic()
    for each in clients:
        each.sendall(b"slow\\n")
    for each in clients:
        assert each.recv(100) == b"SLOW\\n"
    assert time.monotonic() - began < 5, "one after the other"
assert all(each.recv(1) == b"" for each in clients)
assert server.report.clean and server.report.completed == 40, str(server.report)
assert server.report.duration < 2

# the excess waits, and is served when there is room
with Server("tcp://127.0.0.1:0", "gevent?limit=1", shout) as server:
    server.start()
    first, second = client(server), client(server)
    ask(first, b"one\\n")
    second.sendall(b"two\\n")
    time.sleep(0.1)
    assert len(server.jobs()) == 1
    first.close()
    assert second.recv(100) == b"TWO\\n"

# what does not end is killed at the deadline, with one outcome
with Server("tcp://127.0.0.1:0", "gevent", shout, drain_timeout=0.2) as server:
    server.start()
    stuck = client(server)
    stuck.sendall(b"stuck\\n")
    time.sleep(0.1)
assert (server.report.accepted, server.report.cancelled, server.report.abandoned) == (1, 1, ()), str(server.report)

# datagrams, in the main thread
def reply(datagram):
    gevent.sleep(0)
    datagram.reply(datagram.data.upper())
    server.request_stop()

server = Server("udp://127.0.0.1:0", "gevent", reply)
server.bind()
def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(b"packet", server.address)
        assert sock.recv(100) == b"PACKET"
sender = threading.Thread(target=send)
sender.start()
assert server.serve_forever().completed == 1
sender.join()
print("served")
"""

CONFORMANCE = """
import gevent
from tricorn.testing import check_dispatcher
from tricorn_gevent import Gevent
gevent.sleep(0)  # the main thread's event loop lasts as long as the program: no leak
check_dispatcher(Gevent, pause=gevent.sleep)
print("conforms")
"""


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """The finished command, with what it wrote."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with both wheels installed."""
    place = tmp_path_factory.mktemp("gevent-example")
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    if run(python, "-m", "pip", "install", "-q", "gevent>=24.2", "setuptools>=77", "wheel").returncode:
        pytest.skip("gevent and setuptools cannot be installed here")
    built = run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place / "wheels",
                copied(ROOT, place / "tricorn", *SOURCES), copied(EXAMPLE, place / "example"))  # fmt: skip
    assert built.returncode == 0, built.stderr
    installed = run(python, "-m", "pip", "install", "-q", *(place / "wheels").glob("*.whl"))
    assert installed.returncode == 0, installed.stderr
    return python


def copied(source: Path, target: Path, *names: str) -> Path:
    """A copy to build from, so that a build leaves nothing behind in the working tree."""
    target.mkdir()
    for each in [source / name for name in names] or list(source.iterdir()):
        if each.is_dir():
            shutil.copytree(each, target / each.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(each, target)
    return target


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_serves_when_it_is_asked_for_by_name(python: Path) -> None:
    """Streams and datagrams, up to its limit, to a clean end or a killed one."""
    done = run(python, "-W", "error", "-c", SERVE_BY_NAME)
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_passes_the_conformance_kit(python: Path) -> None:
    """CONFORMANCE KIT: `tricorn.testing.check_dispatcher`, which every dispatcher has to pass."""
    done = run(python, "-c", CONFORMANCE)
    assert (done.returncode, done.stdout) == (0, "conforms\n"), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_is_listed_with_its_option(python: Path) -> None:
    """With its distribution, beside the built-in ones."""
    code = (
        "from tricorn.installed import installed_parts;"
        "print(*[(p.distribution, p.summary, *map(str, p.options)) for p in installed_parts() if p.name == 'gevent'])"
    )
    summary = "A greenlet for each request, all in the serving thread; handlers must be cooperative."
    done = run(python, "-c", code)
    expected = ("tricorn-gevent", summary, "limit (a whole number; default 1000)")
    assert done.stdout.strip() == str(expected), done.stderr
