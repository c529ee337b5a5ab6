"""A server that is started as root, and serves as somebody else."""

from __future__ import annotations

import ast
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server, privileges
from tricorn.errors import ConfigurationError, IncompatibleParts, ListenError, PrivilegeError
from tricorn.lifecycle import State
from tricorn.privileges import LATER, Identity, find_identity
from tricorn.strategies import Sync
from tricorn.transports import TCP, TLS, ProxyProtocol, UnixDatagram, UnixStream

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no users to change to")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)

#: Who everywhere has nothing, and a group that it is not in by itself.
NOBODY = 65534
PARTS = ("strategies", "transports", "handlers", "observe")

SETUP = """
    import encodings.idna, os, socket, sys, threading
    import ctypes, traceback  # nobody might not be able to later
    from tricorn import Server, errors
    from tricorn.strategies import *
    from tricorn.transports import TCP, UnixStream

    def regained():
        for regain in (os.setuid, os.seteuid, os.setgid, os.setegid):
            try:
                regain(0)
            except PermissionError:
                continue
            return regain.__name__

    def who(connection):
        connection.send(repr((os.getresuid(), os.getresgid(), os.getgroups(), regained())).encode())
"""
PROGRAM = (
    SETUP
    + """
    server = Server(TCP("127.0.0.1", 0), eval(sys.argv[1]), who, **eval(sys.argv[2]))
    server.bind()
    print(server.address[1], flush=True)
    print(server.serve_forever(signals=True), flush=True)
"""
)


def ask(port: int) -> Any:
    """Who the handler is."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        return eval(client.recv(1000))


@as_root
@pytest.mark.parametrize("dispatcher", ["Sync()", "Thread()", "ThreadPool(2)", "Fork()", "ProcessPool(2)"])
def test_the_handler_is_somebody_else(dispatcher: str, script: Any) -> None:
    """In every process, and cannot go back; the server ends as it always does."""
    program = script(PROGRAM, dispatcher, {"user": NOBODY})
    users, groups, more, regained = ask(int(program.stdout.readline()))
    assert users == (NOBODY,) * 3
    assert groups == (NOBODY,) * 3
    assert set(more) <= {NOBODY}
    assert regained is None
    program.send_signal(signal.SIGTERM)
    assert "1 accepted, 1 completed" in program.stdout.read()
    assert program.wait(20) in (0, -signal.SIGTERM)


@as_root
def test_a_user_without_an_entry(script: Any) -> None:
    """Has the group that is given, and no other."""
    program = script(PROGRAM, "ThreadPool(2)", {"user": 54321, "group": 54322})
    assert ask(int(program.stdout.readline())) == ((54321,) * 3, (54322,) * 3, [54322], None)


@as_root
def test_threads_that_are_there_already(script: Any) -> None:
    """Become the same: credentials are the whole process's, by what the C library does."""
    program = script(
        SETUP
        + """
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    Server(TCP("127.0.0.1", 0), ThreadPool(2), who, user=65534).bind()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as status:
            print(next(line for line in status if line.startswith("Uid:")).split(), flush=True)
    over.set()
    """
    )
    lines = program.communicate(timeout=20)[0].splitlines()
    assert [eval(line) for line in lines] == 2 * [["Uid:", *4 * [str(NOBODY)]]]


@as_root
def test_it_happens_after_binding(script: Any, tmp_path: Any) -> None:
    """What only root can bind, such as a path in a folder of root's, is bound; who asks again is refused."""
    (tmp_path / "private").mkdir(mode=0o755)
    program = script(
        SETUP
        + """
    with Server(UnixStream("private/s", mode=0o666), ThreadPool(2), who, user=65534) as server:
        server.start()
        try:
            UnixStream("private/t").listen()
        except errors.ListenError as error:
            print(error, flush=True)
        input()
    """
    )
    assert "cannot listen on unix private/t: Permission denied" in program.stdout.readline()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "private" / "s"))
        assert eval(client.recv(1000))[0] == (NOBODY,) * 3
    program.communicate("\n", timeout=20)
    assert program.returncode == 0


@as_root
def test_who_is_not_root_is_refused(script: Any) -> None:
    """Before anything is bound; unless it is that user already."""
    program = script(
        SETUP
        + """
    import importlib
    from tricorn.privileges import LATER
    for module in LATER:  # nobody might not be able to read them
        importlib.import_module(f"tricorn.{module}")
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    with Server(TCP("127.0.0.1", 0), ThreadPool(2), who, user=65534):
        print("served", flush=True)
    try:
        Server(TCP("127.0.0.1", 1), ThreadPool(2), who, user=54321, group=54321).bind()
    except errors.PrivilegeError as error:
        print(isinstance(error, PermissionError), error, flush=True)
    """
    )
    said = program.communicate(timeout=20)[0].splitlines()
    assert said[0] == "served"
    assert said[1] == (
        "True user is 54321, and only root can become another user; this process is user 65534: start it as root, or "
        "leave user and group out"
    )


@as_root
def test_on_the_command_line(script: Any, tmp_path: Any) -> None:
    """``tricorn serve --user --group``."""
    pytest.importorskip("click", reason="the extra 'cli' is not installed")
    (tmp_path / "app.py").write_text(
        "import os\n\ndef who(connection):\n    connection.send(repr((os.getuid(), os.getgid())).encode())\n"
    )
    tmp_path.chmod(0o755)
    program = script(
        """
        import sys
        import tricorn.fullness, tricorn.overload
        from tricorn.cli import main
        sys.argv = ["tricorn", "serve", "tcp://127.0.0.1:0", "app:who", "--user", "54321", "--group", "54322"]
        main()
        """
    )
    port = int(program.stdout.readline().rpartition(":")[2])
    assert ask(port) == (54321, 54322)
    program.send_signal(signal.SIGTERM)
    assert program.wait(20) in (0, -signal.SIGTERM)


@as_root
@pytest.mark.parametrize(
    ("who", "said"),
    [
        ({"user": "no-such-user"}, "user is 'no-such-user'; this machine knows no such user"),
        ({"user": "nobody", "group": "no-such-group"}, "group is 'no-such-group'; this machine knows no such group"),
        ({"user": 54321}, "user is 54321, which has no entry and so no group of its own; give a group too"),
        ({"user": "root"}, "user is 'root', which is root: nothing would be given up"),
        ({"user": 0, "group": 65534}, "user is 0, which is root"),
    ],
)
def test_whom_nobody_can_become(who: Any, said: str) -> None:
    """Is found before anything is bound, and the server is closed."""
    server = Server(TCP("127.0.0.1", 0), Sync(), print, log=False, **who)
    with pytest.raises(ConfigurationError, match=said):
        server.bind()
    assert server.state is State.CLOSED


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ({"user": ""}, "user is ''"),
        ({"user": -1}, "user is -1; allowed: a number from 0"),
        ({"user": 2**32 - 1}, "user is 4294967295; allowed"),
        ({"user": True}, "user is True"),
        ({"user": 1.5}, "user is 1.5"),
        ({"user": 1, "group": b"x"}, "group is b'x'"),
        ({"group": "nogroup"}, "give a user too"),
    ],
)
def test_what_is_no_user(who: Any, said: str) -> None:
    """Is found when the server is built."""
    with pytest.raises(ConfigurationError, match=said):
        Server(TCP("127.0.0.1", 0), Sync(), print, **who)


@pytest.mark.parametrize("kind", [UnixStream, UnixDatagram])
def test_a_socket_file_that_would_be_roots_alone(kind: Any, tmp_path: Any) -> None:
    """Is refused, since nobody else could connect; one that somebody else has, or may use, is right."""

    def build(transport: Any) -> None:
        Server(transport, Sync(), lambda request: None, user=NOBODY)

    with pytest.raises(IncompatibleParts, match=r"would belong to root with mode 0o600.*a user or a group, or a wider"):
        build(kind(tmp_path / "s"))
    build(kind(tmp_path / "s", user=NOBODY))
    build(kind(tmp_path / "s", group=NOBODY, mode=0o660))
    build(kind(tmp_path / "s", mode=0o666))
    build(kind("@abstract"))
    Server(kind(tmp_path / "s"), Sync(), lambda request: None)


def test_a_socket_file_below_others(tmp_path: Any) -> None:
    """The same."""
    wrapped = TLS(ProxyProtocol(UnixStream(tmp_path / "s"), trusted="unix"), certfile="a.pem")
    with pytest.raises(IncompatibleParts, match="would belong to root"):
        Server(wrapped, Sync(), print, user=NOBODY)


# -- what the kernel says


class Kernel:
    """Stands for the calls that change credentials, and notes their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.users = self.groups = (0, 0, 0)
        self.more: list[int] = [0, 4]
        self.can_go_back: set[str] = set()
        self.refuses: set[str] = set()
        for name in ("setgroups", "setresgid", "setresuid", "setuid", "seteuid", "setgid", "setegid"):
            monkeypatch.setattr(os, name, self._call(name))
        monkeypatch.setattr(os, "getresuid", lambda: self.users)
        monkeypatch.setattr(os, "getresgid", lambda: self.groups)
        monkeypatch.setattr(os, "getgroups", lambda: self.more)
        monkeypatch.setattr(os, "geteuid", lambda: self.users[1])

    def _call(self, name: str) -> Any:
        def call(*values: Any) -> None:
            self.calls.append(name)
            if name in self.refuses or (not name.startswith(("setres", "setgroups")) and name not in self.can_go_back):
                raise PermissionError(1, "Operation not permitted")
            if name == "setgroups":
                self.more = list(values[0])
            elif name == "setresgid":
                self.groups = values  # type: ignore[assignment]
            elif name == "setresuid":
                self.users = values  # type: ignore[assignment]

        call.__name__ = name
        return call


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """In the place of the real one, for a process that is root."""
    return Kernel(monkeypatch)


def test_the_order(kernel: Kernel) -> None:
    """Groups, group, user; then every way back is tried."""
    Identity(1, 2, (2, 3)).assume()
    assert kernel.calls == ["setgroups", "setresgid", "setresuid", "setuid", "seteuid", "setgid", "setegid"]
    assert (kernel.users, kernel.groups, kernel.more) == ((1, 1, 1), (2, 2, 2), [2, 3])


def test_who_is_that_user_already(kernel: Kernel) -> None:
    """Has nothing to do."""
    kernel.users, kernel.groups = (1, 1, 1), (2, 2, 2)
    Identity(1, 2, (2,)).assume()
    assert kernel.calls == []


@pytest.mark.parametrize("name", ["setgroups", "setresgid", "setresuid"])
def test_a_kernel_that_refuses(name: str, kernel: Kernel) -> None:
    """Is the end of it: nothing is served, nothing stays bound."""
    kernel.refuses.add(name)
    server = Server(TCP("127.0.0.1", 0), Sync(), print, log=False, user=54321, group=54321)
    with pytest.raises(PrivilegeError, match=r"cannot become user 54321, group 54321: Operation not permitted"):
        server.bind()
    assert server.state is State.CLOSED


@pytest.mark.parametrize("name", ["setuid", "seteuid", "setgid", "setegid"])
def test_a_way_back(name: str, kernel: Kernel) -> None:
    """Is an error: such a process has capabilities that it should not have."""
    kernel.can_go_back.add(name)
    with pytest.raises(PrivilegeError, match=rf"became user 1, and could become root again \({name}\)"):
        Identity(1, 2, (2,)).assume()


def test_groups_that_stay(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are an error."""
    monkeypatch.setattr(os, "getgroups", lambda: [0])
    with pytest.raises(PrivilegeError, match="the kernel did not make this process user 1"):
        Identity(1, 2, (2,)).assume()


def test_the_groups_of_a_user(kernel: Kernel) -> None:
    """Are those that the machine knows, and the one that is given."""
    found = find_identity("nobody", None)
    assert found.user == find_identity(found.user, None).user
    assert found.group in found.groups
    assert 54321 in find_identity("nobody", 54321).groups


def test_a_port_that_is_taken(kernel: Kernel) -> None:
    """Is told before anything is given up."""
    with Server(TCP("127.0.0.1", 0), Sync(), print, log=False) as first:
        second = Server(TCP(*first.address), Sync(), print, log=False, user="nobody")
        with pytest.raises(ListenError, match="another program listens there"):
            second.bind()
    assert kernel.calls == []


#: What is imported in functions, and not while a server serves: by names, by the facade, by a table's first connection.
BEFORE = {"legacy", "leases", "names", "plugins", "privileges"}


def test_whatever_is_imported_later_is_there_before() -> None:
    """The new user might not be allowed to read the package."""
    folder = Path(privileges.__file__).parent
    later = set()
    for path in [*folder.glob("*.py"), *(each for part in PARTS for each in (folder / part).glob("*.py"))]:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                imports = [each for each in ast.walk(function) if isinstance(each, ast.ImportFrom)]
                later |= {name.split(".")[1] for each in imports if (name := each.module or "").startswith("tricorn.")}
    assert later - BEFORE - set(LATER) == set()
    assert {"authentication", "parking"} <= later
