"""``tricorn serve`` as scripts and supervisors see it: a line, signals, a report, a status."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

DISPATCHERS = ("sync", "thread", "thread-pool", "fork", "process-pool")
REPORT = r"(?m)^drained in \d+\.\d{3} s: (.*)$"

each_dispatcher = pytest.mark.parametrize("dispatcher", DISPATCHERS)


@each_dispatcher
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_serves_and_a_signal_drains_it(start, dispatcher, number) -> None:
    """A client of the printed address is served; the report and status 0 follow the signal."""
    server = start("serve", "tcp://127.0.0.1:0", "echo", "--dispatcher", dispatcher)
    with server.connect() as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"hello"
        assert client.recv(100) == b""
    server.signal(number)
    assert server.end() == 0
    assert re.search(REPORT, server.out)[1] == "1 accepted, 1 completed"
    assert server.out.count("\n") == 2


@each_dispatcher
def test_http_handlers_of_the_standard_library_are_served(start, tmp_path, dispatcher) -> None:
    """What the help text promises of ``http.server``."""
    (tmp_path / "page.txt").write_text("a page")
    server = start("serve", "tcp://127.0.0.1:0", "http.server:SimpleHTTPRequestHandler", "-d", dispatcher)
    client = http.client.HTTPConnection(server.addresses[0].removeprefix("tcp://"), timeout=20)
    client.request("GET", "/page.txt")
    assert client.getresponse().read() == b"a page"
    client.close()
    server.signal()
    assert server.end() == 0


@pytest.mark.parametrize("dispatcher", ["sync", "thread-pool", "fork"])
def test_a_drain_lets_a_request_come_to_its_own_end(start, write, tmp_path, dispatcher) -> None:
    """The handler goes on after the signal until it is done."""
    os.mkfifo(tmp_path / "gate")
    write("app", """
        def answer(connection):
            connection.send(b"in")
            with open("gate") as gate:
                gate.read()
            connection.send(b"done")
    """)  # fmt: skip
    server = start("serve", "tcp://127.0.0.1:0", "app:answer", "-d", dispatcher)
    with server.connect() as client:
        assert client.recv(2) == b"in"
        server.signal()
        server.read_until("err", "stopping, 1 in flight")
        (tmp_path / "gate").write_text("open")
        assert client.recv(4) == b"done"
    assert server.end() == 0
    assert re.search(REPORT, server.out)[1] == "1 accepted, 1 completed"


#: They sleep in short pieces: a signal that comes just before a sleep begins is noticed when it ends.
STUCK = """
    import time

    def stuck(connection):
        connection.send(b"in")
        while True:
            time.sleep(0.05)

    def stubborn(connection):
        connection.send(b"in")
        while True:
            try:
                time.sleep(0.05)
            except BaseException:
                pass
"""


@each_dispatcher
@pytest.mark.parametrize("handler", ["stuck", "stubborn"])
def test_a_handler_that_never_ends_is_left_behind_at_the_deadline(start, write, dispatcher, handler) -> None:
    """Status 1 and a report that says so, even where it holds the main thread."""
    write("app", STUCK)
    server = start("serve", "tcp://127.0.0.1:0", f"app:{handler}", "-d", dispatcher, "--drain-timeout", "0.1")
    with server.connect() as client:
        assert client.recv(2) == b"in"
        server.signal()
        assert server.end() == 1
    assert re.search(REPORT, server.out)[1] in ("1 accepted, 1 abandoned", "1 accepted, 1 cancelled")
    if dispatcher == "sync":
        assert re.search(r"abandoned: request 1 from 127\.0\.0\.1:\d+ in .*, stage handler", server.out)
        assert f"in {handler}" in server.out


@each_dispatcher
def test_a_second_signal_closes_now(start, write, dispatcher) -> None:
    """Without it the drain would take a minute, longer than this test waits."""
    write("app", STUCK)
    server = start("serve", "tcp://127.0.0.1:0", "app:stuck", "-d", dispatcher, "--drain-timeout", "60")
    with server.connect() as client:
        assert client.recv(2) == b"in"
        server.signal()
        server.read_until("err", "stopping, 1 in flight")
        server.signal(signal.SIGINT)
        assert server.end() == 1
    assert re.search(REPORT, server.out)[1] in ("1 accepted, 1 abandoned", "1 accepted, 1 cancelled")


LOOP = """
    from tricorn.contracts import Dispatcher
    from tricorn.hookspecs import hookimpl
    from tricorn.parts import DispatcherPart

    class Loop(Dispatcher):
        "Runs requests in its serving thread without saying so."
        def serve(self, intake):
            for job in intake:
                job.run()

    @hookimpl
    def tricorn_dispatchers():
        yield DispatcherPart("loop", Loop)
"""


def test_a_dispatcher_that_does_not_come_back_is_left_behind(start, write, distribution) -> None:
    """A stuck event loop ends the process late, and still ends it."""
    write("app", STUCK)
    path = str(distribution("acme", LOOP))
    server = start(
        "serve", "tcp://127.0.0.1:0", "app:stubborn", "-d", "loop", "--drain-timeout", "0.1", PYTHONPATH=path
    )
    with server.connect() as client:
        assert client.recv(2) == b"in"
        server.signal()
        assert server.end() == 1
    assert "1 abandoned" in server.out


def test_a_thread_that_a_handler_started_does_not_keep_the_process(start, write) -> None:
    """The drain was clean, and so is the status."""
    write("app", """
        import threading

        def lingering(connection):
            threading.Thread(target=threading.Event().wait).start()
            connection.send(b"in")
    """)  # fmt: skip
    server = start("serve", "tcp://127.0.0.1:0", "app:lingering", "-d", "sync", "--drain-timeout", "0.1")
    with server.connect() as client:
        assert client.recv(2) == b"in"
        assert client.recv(2) == b""
    server.signal()
    assert server.end() == 0
    assert re.search(REPORT, server.out)[1] == "1 accepted, 1 completed"


def test_handlers_that_fail_are_logged_and_do_not_change_the_status(start, write) -> None:
    """Each record has the time, the level, the process and the traceback."""
    write("app", "def failing(connection): raise LookupError('nothing there')")
    server = start("serve", "tcp://127.0.0.1:0", "app:failing")
    with server.connect() as client:
        assert client.recv(2) == b""
    server.signal()
    assert server.end() == 0
    assert re.search(REPORT, server.out)[1] == "1 accepted, 1 failed"
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.search(rf"(?m)^{stamp} ERROR {server.process.pid} tricorn: request 1 from 127\.0\.0\.1", server.err)
    assert "LookupError: nothing there" in server.err


def test_a_keyboard_interrupt_out_of_a_handler_is_no_ctrl_c(start, write) -> None:
    """It costs its own request only."""
    write("app", "def interrupting(connection): raise KeyboardInterrupt")
    server = start("serve", "tcp://127.0.0.1:0", "app:interrupting", "-d", "sync")
    with server.connect() as client:
        assert client.recv(2) == b""
    with server.connect() as client:
        assert client.recv(2) == b""
    server.signal()
    assert server.end() == 0
    assert re.search(REPORT, server.out)[1] == "2 accepted, 2 failed"


def test_several_transports_are_told_in_their_order(start, tmp_path) -> None:
    """Each address is written as it could be given again."""
    place = tmp_path / "a name.sock"
    name = f"@tricorn-test-{os.getpid()}"
    given = (f"unix:{tmp_path}/a%20name.sock", "tcp://127.0.0.1:0", f"unix:{name}", "udp://127.0.0.1:0")
    server = start("serve", *given, "echo")
    unix, tcp, abstract, udp = server.addresses
    assert unix == f"unix:{tmp_path}/a%20name.sock"
    assert abstract == f"unix:{name}"
    assert re.fullmatch(r"tcp://127\.0\.0\.1:[1-9]\d*", tcp)
    assert re.fullmatch(r"udp://127\.0\.0\.1:[1-9]\d*", udp)
    with server.connect() as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    server.signal()
    assert server.end() == 0
    assert not place.exists()


def test_datagrams_are_served(start) -> None:
    """Over UDP."""
    server = start("serve", "udp://127.0.0.1:0", "echo", "-d", "sync")
    with server.connect() as client:
        client.send(b"hello")
        assert client.recv(100) == b"hello"
    server.signal()
    assert server.end() == 0


def test_quiet_leaves_the_one_line_that_scripts_need(start) -> None:
    """No report and no log."""
    server = start("serve", "tcp://127.0.0.1:0", "echo", "--quiet")
    (address,) = server.addresses
    server.signal()
    assert server.end() == 0
    assert server.out == f"serving {address}\n"
    assert server.err == ""


def test_nobody_has_to_read_what_it_prints(start) -> None:
    """A reader that closes the pipe after the first line changes nothing."""
    server = start("serve", "tcp://127.0.0.1:0", "echo", "--quiet")
    assert server.addresses
    server.process.stdout.close()
    server.process.stdout = None
    server.signal()
    _, err = server.process.communicate(timeout=20)
    assert (server.process.returncode, err) == (0, b"")


def test_the_current_directory_is_left_out_where_python_was_told_so(start, write) -> None:
    """PYTHONSAFEPATH holds here too."""
    write("app", "def answer(connection): pass")
    server = start("serve", "tcp://127.0.0.1:0", "app:answer", PYTHONSAFEPATH="1")
    assert server.end() == 2
    assert "there is no module 'app'" in server.err


def test_ipv6_addresses_stand_in_brackets(start) -> None:
    """As they are given."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = start("serve", "tcp://[::1]:0", "echo")
    assert re.fullmatch(r"tcp://\[::1\]:[1-9]\d*", server.addresses[0])
    server.signal()
    assert server.end() == 0


def test_the_address_of_a_server_that_ended_can_be_served_again(start) -> None:
    """A restart on the very same text."""
    first = start("serve", "tcp://127.0.0.1:0", "echo")
    (address,) = first.addresses
    first.signal()
    assert first.end() == 0
    second = start("serve", address, "echo")
    assert second.addresses == [address]
    second.signal()
    assert second.end() == 0


def test_the_console_script_finds_handlers_in_the_current_directory(start, write, tmp_path) -> None:
    """``tricorn`` itself, and not ``python -m tricorn``."""
    script = Path(sys.executable).with_name("tricorn")
    if not script.exists():
        pytest.skip("the script is not installed beside this Python")
    write("app", "import os\ndef answer(connection): os.kill(os.getpid(), 15)")
    server = subprocess.Popen(
        [script, "serve", "tcp://127.0.0.1:0", "app:answer", "-q"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with server:
        port = int(server.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            assert client.recv(1) == b""
        assert server.wait(20) == 0
