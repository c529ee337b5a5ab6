"""What is wrong with a command line is told in one line, with status 2."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tricorn.cli.commands import run

TCP = "tcp://127.0.0.1:0"
WRONG = {
    "no command of that name": (["sreve"], "No such command 'sreve'"),
    "no such option": (["serve", TCP, "echo", "--nope"], "No such option"),
    "no transport": (["serve", "echo"], "Missing argument 'TRANSPORT...'"),
    "a transport that is none": (["serve", "tpc://127.0.0.1:0", "echo"], "did you mean 'tcp'?"),
    "a dispatcher among the transports": (["serve", TCP, "thread-pool", "echo"], "'thread-pool' is a dispatcher"),
    "a port out of range": (["serve", "tcp://127.0.0.1:65536", "echo"], "from 0 to 65535"),
    "a transport's option": (["serve", TCP + "?backlog=big", "echo"], "option 'backlog' of transport 'tcp' is 'big'"),
    "a dispatcher that is none": (["serve", TCP, "echo", "-d", "thread-pol"], "did you mean 'thread-pool'?"),
    "an unknown option": (["serve", TCP, "echo", "-d", "thread-pool?worker=3"], "has no option 'worker'"),
    "an option out of range": (["serve", TCP, "echo", "-d", "thread-pool?workers=0"], "workers must be at least 1"),
    "a handler that is none": (["serve", TCP, "ecko"], "did you mean 'echo'?"),
    "a module that is none": (["serve", TCP, "no_such_module:handler"], "there is no module 'no_such_module'"),
    "an attribute that is none": (["serve", TCP, "json:dmps"], "did you mean 'dumps'?"),
    "a handler that cannot be called": (["serve", TCP, "math:pi"], "cannot be called"),
    "parts that do not fit": (["serve", "udp://[::1]:0", "http.server:BaseHTTPRequestHandler"], "use TCP or Unix"),
    "a transport without clients": (["serve", "memory:", "echo"], "exists only inside the serving process"),
    "an address of another machine": (["serve", "tcp://192.0.2.1:0", "echo"], "cannot listen on tcp 192.0.2.1:0"),
    "a folder that is not there": (["serve", "unix:/no/such/place", "echo"], "cannot listen on unix /no/such/place"),
    "no time that could pass": (["serve", TCP, "echo", "--drain-timeout", "-1"], "allowed: seconds, 0 or more"),
    "a drain without end": (["serve", TCP, "echo", "--drain-timeout", "inf"], "allowed: seconds, 0 or more"),
    "room for nobody": (["serve", TCP, "echo", "--max-connections", "0"], "'--max-connections'"),
    "a level that is none": (["serve", TCP, "echo", "--log-level", "loud"], "'--log-level'"),
    "a matrix without end": (["matrix", "--timeout", "nan"], "allowed: seconds, 0 or more"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line changes the path and the log of its process, which is ours here."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr("tricorn.cli.commands.configure_log", lambda level: None)


def told(capsys) -> str:
    """The one line on standard error."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tricorn: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_it_is_one_line_and_status_2(capsys, arguments, words) -> None:
    """Whoever found it: click, the names, the composition, the server, the kernel."""
    assert run(arguments) == 2
    assert words in told(capsys)


def test_a_port_in_use(capsys) -> None:
    """The kernel's word, the address, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", f"tcp://127.0.0.1:{port}", "echo"]) == 2
    line = told(capsys)
    assert f"127.0.0.1:{port}: Address already in use" in line


def test_there_is_no_traceback_in_the_real_process_either(start, write) -> None:
    """A handler's module that fails is the user's; its traceback comes with ``--log-level debug``."""
    write("app", "raise RuntimeError('two\\nlines')")
    quiet = start("serve", TCP, "app:handler")
    assert quiet.end() == 2
    words = "handler 'app:handler': module 'app' fails when it is imported: RuntimeError: two lines"
    assert quiet.err == f"tricorn: error: {words}\n"
    loud = start("serve", TCP, "app:handler", "--log-level", "debug")
    assert loud.end() == 2
    assert 'app.py", line 1' in loud.err


def test_a_fork_beside_a_thread_is_refused_before_anything_is_served(start, write) -> None:
    """The handler's module started it; the process ends all the same."""
    write("app", "import threading\nthreading.Thread(target=threading.Event().wait).start()\ndef answer(c): pass")
    server = start("serve", TCP, "app:answer", "-d", "fork")
    assert server.end() == 2
    assert server.out == ""
    assert "cannot fork in a program with 2 threads" in server.err


def test_what_nobody_foresaw_has_a_status_of_its_own(capsys, monkeypatch) -> None:
    """And a traceback, since somebody will have to read one."""

    def explode(*arguments: object) -> None:
        raise ZeroDivisionError("in the parts")

    monkeypatch.setattr("tricorn.cli.commands.show_parts", explode)
    assert run(["parts"]) == 70
    assert "ZeroDivisionError: in the parts" in capsys.readouterr().err


def test_an_interrupt_before_there_is_a_server(capsys, monkeypatch) -> None:
    """As a shell has it: 128 and the signal's number."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tricorn.cli.commands.show_parts", interrupt)
    assert run(["parts"]) == 130
    assert capsys.readouterr().err.strip() == "tricorn: error: interrupted"  # on a line below the ^C


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(missing) -> None:
    """One line, and no traceback."""
    code = f"import sys; sys.modules[{missing!r}] = None; from tricorn.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"tricorn: error: the command line needs {missing}: pip install 'tricorn[cli]'\n"
