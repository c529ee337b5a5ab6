"""The README's programs and the examples, run as a newcomer would: as scripts, each in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SERVING = [program for program in PROGRAMS if ".serve_forever(" in program]
ENDING = [program for program in PROGRAMS if program not in SERVING]


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def moved(text: str) -> tuple[str, int]:
    """The same text on a free port: the one that is written there may be somebody else's."""
    port = free_port()
    return re.sub(r"\b(9999|8000)\b", str(port), text), port


@contextmanager
def running(*command: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, until SIGTERM; it must drain and end with status 0."""
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, out + err
        assert "Traceback" not in err, err
    finally:
        process.kill()
        process.communicate()


def connect(port: int, process: subprocess.Popen[str]) -> socket.socket:
    """A client, as soon as the server can be reached."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)


def ask(client: socket.socket, data: bytes) -> bytes:
    """What comes back for ``data`` until there is a whole line of it."""
    client.sendall(data)
    answer = b""
    while not answer.endswith(b"\n"):
        more = client.recv(65536)
        assert more, answer
        answer += more
    return answer


def expected_answer(program: str) -> tuple[bytes, bytes]:
    """What to send to one of the README's servers, and how its answer begins."""
    if "SimpleHTTPRequestHandler" in program:
        return b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK\r\n"
    return b"hello\n", b"HELLO\n" if "upper()" in program else b"hello\n"


def test_there_are_programs_to_run() -> None:
    """The first server, the one by names, `http.server`'s, the one of messages; and three that end by themselves."""
    assert (len(SERVING), len(ENDING)) == (4, 3)


@pytest.mark.parametrize("number", range(len(SERVING)))
def test_a_program_of_the_readme_serves_until_it_is_told_to_stop(number: int, tmp_path: Path) -> None:
    """Word for word, but for the port: it answers a client, and SIGTERM ends it well."""
    program, port = moved(SERVING[number])
    script = tmp_path / "app.py"
    script.write_text(program)
    question, answer = expected_answer(program)
    with running(sys.executable, script, cwd=tmp_path) as process, connect(port, process) as client:
        assert ask(client, question).startswith(answer)


@pytest.mark.parametrize("number", range(len(ENDING)))
def test_a_program_of_the_readme_ends_by_itself(number: int, tmp_path: Path) -> None:
    """Word for word; its clients are greeted."""
    script = tmp_path / "app.py"
    script.write_text(ENDING[number])
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello" in done.stdout.lower()


def test_the_command_line_of_the_readme_serves(tmp_path: Path) -> None:
    """`tricorn serve` with a transport, a handler and a dispatcher by name."""
    pytest.importorskip("click", reason="the extra 'cli' is not installed")
    (line,) = re.findall(r"^tricorn serve .*$", README, re.MULTILINE)
    words, port = moved(line.replace("'", ""))
    command = [sys.executable, "-m", *words.split()]
    with running(*command, cwd=tmp_path) as process, connect(port, process) as client:
        assert ask(client, b"hello\n") == b"hello\n"


@pytest.mark.parametrize("name", ["parts", "matrix"])
def test_a_command_of_the_readme_is_one(name: str) -> None:
    """Its help can be asked for."""
    pytest.importorskip("click", reason="the extra 'cli' is not installed")
    assert re.search(rf"^tricorn {name} ", README, re.MULTILINE)
    subprocess.run([sys.executable, "-m", "tricorn", name, "--help"], check=True, capture_output=True, timeout=30)


def test_the_quickstart_shows_clients_that_are_answered(tmp_path: Path) -> None:
    """It ends by itself, having told what the clients got and what the server did."""
    script = ROOT / "examples" / "quickstart.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("got back: hello from client") == 5
    assert "5 accepted, 5 completed" in done.stdout


EXAMPLES = {
    "quickstart.py": (["--serve", "--port", "{port}"], b"hello\n", b"hello\n"),
    "echo_tcp.py": (["{port}"], b"hello\n", b"1: hello\n"),
    "http_server.py": (["{port}"], b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK\r\n"),
    "names.py": (["tcp://127.0.0.1:{port}", "thread-pool?workers=4", "echo"], b"hello\n", b"hello\n"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_serves_until_it_is_told_to_stop(name: str, tmp_path: Path) -> None:
    """It answers a client, and SIGTERM ends it well."""
    words, question, answer = EXAMPLES[name]
    port = free_port()
    arguments = [word.format(port=port) for word in words]
    script = ROOT / "examples" / name
    with running(sys.executable, script, *arguments, cwd=tmp_path) as process, connect(port, process) as client:
        assert ask(client, question).startswith(answer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_http_example_takes_any_dispatcher_by_name(tmp_path: Path) -> None:
    """A pool of processes serves a file of the current folder."""
    (tmp_path / "page.txt").write_text("a page\n")
    port = free_port()
    script = ROOT / "examples" / "http_server.py"
    with (
        running(sys.executable, script, port, "process-pool?workers=2", cwd=tmp_path) as process,
        connect(port, process) as client,
    ):
        client.sendall(b"GET /page.txt HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"\r\n\r\na page\n")


def test_the_collector_adds_up_what_packets_report(tmp_path: Path) -> None:
    """Each packet is answered with the sum so far, and the table is printed at the end."""
    port = free_port(socket.SOCK_DGRAM)
    with running(sys.executable, ROOT / "examples" / "udp_collector.py", port, cwd=tmp_path) as process:
        assert process.stdout and "serving" in process.stdout.readline()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.connect(("127.0.0.1", port))
            for packet, answer in ((b"apples:3", b"apples:3"), (b"apples:1.5", b"apples:4.5")):
                client.send(packet)
                assert client.recv(100) == answer


def test_the_example_of_names_lists_what_is_installed() -> None:
    """Without arguments it shows every part that can be asked for."""
    done = subprocess.run([sys.executable, ROOT / "examples" / "names.py"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("tcp", "udp", "unix", "unixgram", "memory", "sync", "thread", "fork", "thread-pool", "process-pool"):
        assert re.search(rf"^(transport|dispatcher) +{name}\b", done.stdout, re.MULTILINE), name


def test_the_example_of_names_refuses_what_is_misspelt() -> None:
    """In words, with what came closest, and without a traceback."""
    command = [sys.executable, ROOT / "examples" / "names.py", "tcp://127.0.0.1:0", "thread-pol", "echo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "did you mean 'thread-pool'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_links_of_the_readme_lead_somewhere() -> None:
    """To files of the repository."""
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.skipif(not shutil.which("nc"), reason="there is no nc here")
def test_the_first_server_answers_nc(tmp_path: Path) -> None:
    """As the README says: `nc 127.0.0.1 9999`."""
    program, port = moved(SERVING[0])
    script = tmp_path / "app.py"
    script.write_text(program)
    with running(sys.executable, script, cwd=tmp_path) as process:
        connect(port, process).close()
        done = subprocess.run(
            ["nc", "-w", "2", "127.0.0.1", str(port)], input="hello\n", capture_output=True, text=True, timeout=20
        )
        assert done.stdout == "HELLO\n"
