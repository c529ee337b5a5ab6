"""The facade's names, orders of inheritance, signatures and defaults, beside those of the interpreter's own module."""

from __future__ import annotations

import inspect
import io
import os
import selectors
import socket
import socketserver as original
import sys
import time
from types import FunctionType
from typing import Any

import pytest

from tricorn import socketserver as facade

#: The names of Linux's Python 3.12 and later, as written down in the project's notes.
EIGHTEEN = {
    "BaseRequestHandler", "BaseServer", "DatagramRequestHandler", "ForkingMixIn", "ForkingTCPServer",
    "ForkingUDPServer", "ForkingUnixDatagramServer", "ForkingUnixStreamServer", "StreamRequestHandler", "TCPServer",
    "ThreadingMixIn", "ThreadingTCPServer", "ThreadingUDPServer", "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer", "UDPServer", "UnixDatagramServer", "UnixStreamServer",
}  # fmt: skip
CLASSES = sorted(original.__all__)
PRIVATE_CLASSES = ("_NoThreads", "_SocketWriter", "_Threads")
#: What the interpreter itself puts on a class, differently from version to version.
OF_THE_INTERPRETER = {
    "__annotate_func__", "__annotations__", "__annotations_cache__", "__dict__", "__doc__", "__firstlineno__",
    "__module__", "__static_attributes__", "__weakref__", "_abc_impl",
}  # fmt: skip
LINEAGE = {
    "ThreadingTCPServer": ["ThreadingMixIn", "TCPServer", "BaseServer", "object"],
    "ForkingUnixDatagramServer": [
        "ForkingMixIn",
        "UnixDatagramServer",
        "UDPServer",
        "TCPServer",
        "BaseServer",
        "object",
    ],
    "UnixStreamServer": ["TCPServer", "BaseServer", "object"],
    "StreamRequestHandler": ["BaseRequestHandler", "object"],
    "DatagramRequestHandler": ["BaseRequestHandler", "object"],
}
DEFAULTS = {
    "BaseServer": {"timeout": None},
    "TCPServer": {
        "address_family": socket.AF_INET,
        "socket_type": socket.SOCK_STREAM,
        "request_queue_size": socket.SOMAXCONN if sys.version_info >= (3, 15) else 5,
        "allow_reuse_address": False,
        "allow_reuse_port": False,
    },
    "UDPServer": {"socket_type": socket.SOCK_DGRAM, "max_packet_size": 8192, "allow_reuse_address": False},
    "UnixStreamServer": {"address_family": socket.AF_UNIX},
    "UnixDatagramServer": {"address_family": socket.AF_UNIX},
    "ThreadingMixIn": {"daemon_threads": False, "block_on_close": True},
    "ForkingMixIn": {"timeout": 300, "active_children": None, "max_children": 40, "block_on_close": True},
    "StreamRequestHandler": {"rbufsize": -1, "wbufsize": 0, "timeout": None, "disable_nagle_algorithm": False},
}


def own(cls: type) -> dict[str, Any]:
    """What stands on the class itself."""
    return {name: value for name, value in vars(cls).items() if name not in OF_THE_INTERPRETER}


def shape(function: Any) -> list[tuple[object, ...]]:
    """A signature without its annotations."""
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters]


def test_all_the_names_are_those_of_the_original() -> None:
    """`__all__` is the running version's; before 3.12 the two forking Unix servers come on top."""
    extra = {"ForkingUnixDatagramServer", "ForkingUnixStreamServer"} if sys.version_info < (3, 12) else set()
    assert set(facade.__all__) == set(original.__all__) | extra
    assert set(facade.__all__) == EIGHTEEN
    assert len(facade.__all__) == len(set(facade.__all__))


def test_every_name_of_the_original_module_is_there() -> None:
    """The private ones and the imported ones too, since programs touch them."""
    assert [name for name in vars(original) if not hasattr(facade, name)] == []


def test_imported_names_mean_the_same() -> None:
    """`socketserver.socket`, `socketserver.threading` and their kin are what they are in the original."""
    assert (facade.socket, facade.selectors, facade.os, facade.sys) == (socket, selectors, os, sys)
    assert facade.threading is original.threading
    assert facade.BufferedIOBase is io.BufferedIOBase
    assert facade.time is time.monotonic
    assert facade._ServerSelector is original._ServerSelector


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="there it is deprecated")
def test_the_module_has_its_old_version_number() -> None:
    """As the original's, since some print it."""
    assert facade.__version__ == original.__version__ == "0.4"


@pytest.mark.parametrize("name", [*CLASSES, *PRIVATE_CLASSES])
def test_order_of_inheritance(name: str) -> None:
    """By class name, the same as the original's."""
    ours, theirs = getattr(facade, name), getattr(original, name)
    lineage = [each.__name__.lstrip("_") for each in ours.__mro__]
    assert lineage == [each.__name__.lstrip("_") for each in theirs.__mro__]
    assert [each.__name__.lstrip("_") for each in ours.__bases__] == [
        each.__name__.lstrip("_") for each in theirs.__bases__
    ]
    if name in LINEAGE:
        assert lineage[1:] == LINEAGE[name]


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_is_added_to_a_class_and_nothing_missing(name: str) -> None:
    """Each class has the original's own attributes, and `_tricorn` at most."""
    ours, theirs = own(getattr(facade, name)), own(getattr(original, name))
    assert set(ours) - {"_tricorn"} == set(theirs)


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(name: str) -> None:
    """Every method takes the original's arguments, by the same names, of the same kinds, with the same defaults."""
    theirs = {key: value for key, value in own(getattr(original, name)).items() if isinstance(value, FunctionType)}
    ours = own(getattr(facade, name))
    assert {key: shape(ours[key]) for key in theirs} == {key: shape(value) for key, value in theirs.items()}
    assert {key: ours[key].__qualname__ for key in theirs} == {key: each.__qualname__ for key, each in theirs.items()}


@pytest.mark.parametrize("name", CLASSES)
def test_defaults(name: str) -> None:
    """Class attributes that are values have the original's values."""
    theirs = {
        key: value
        for key, value in own(getattr(original, name)).items()
        if not isinstance(value, FunctionType) and key != "_threads"
    }
    assert {key: own(getattr(facade, name))[key] for key in theirs} == theirs
    for key, value in DEFAULTS.get(name, {}).items():
        assert getattr(getattr(facade, name), key) == value


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_a_docstring_and_the_old_home(name: str) -> None:
    """Programs that print or compare `__module__` see `socketserver`."""
    cls = getattr(facade, name)
    assert cls.__doc__
    assert cls.__module__ == "socketserver"
    assert cls.__qualname__ == name


def test_private_names_that_programs_touch() -> None:
    """The mangled flags, the step that pools override, and the threads that they count."""
    with facade.ThreadingTCPServer(("127.0.0.1", 0), facade.BaseRequestHandler) as server:
        assert server._BaseServer__shutdown_request is False
        assert not server._BaseServer__is_shut_down.is_set()
        assert callable(server._handle_request_noblock)
        assert callable(server.process_request_thread)
        assert isinstance(server._threads, facade._NoThreads)
    assert facade.ForkingTCPServer.active_children is None
    assert callable(facade.ForkingTCPServer.collect_children)
    assert issubclass(facade._Threads, list)


def serve_one(module: Any, name: str) -> tuple[set[str], set[str]]:
    """The attributes of a server that has served, and of the handler that did it."""
    handlers = []

    class Handler(module.StreamRequestHandler):
        def handle(self) -> None:
            handlers.append(self)

    with (
        getattr(module, name)(("127.0.0.1", 0), Handler) as server,
        socket.create_connection(server.server_address) as client,
    ):
        server.handle_request()
        assert client.recv(1) == b""
    return set(vars(server)), set(vars(handlers[0]))


@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer"])
def test_nothing_is_added_to_an_instance(name: str) -> None:
    """A server that has served holds the original's attributes and `_tricorn`; its handler, the original's."""
    ours, theirs = serve_one(facade, name), serve_one(original, name)
    assert ours[0] - theirs[0] <= {"_tricorn"}
    assert theirs[0] - ours[0] == set()
    assert ours[1] == theirs[1]


def test_wfile_is_the_writer_of_the_module() -> None:
    """`_SocketWriter` is what an unbuffered `wfile` is, in both; it tells how many bytes it wrote."""
    here, there = socket.socketpair()
    with here, there:
        writer = facade._SocketWriter(here)
        assert writer.writable()
        assert writer.fileno() == here.fileno()
        assert writer.write(memoryview(b"abcdefgh").cast("I")) == 8
        assert there.recv(100) == b"abcdefgh"

        class Handler(facade.StreamRequestHandler):
            def handle(self) -> None:
                assert isinstance(self.wfile, facade._SocketWriter)

        Handler(here, None, None)


def test_unknown_names_are_absent() -> None:
    """With the words of any module."""
    for name in ("Nonsense", "NonsenseMixIn", "NonsenseTCPServer", "MixIn", "Server", "ThreadingNonsenseServer"):
        with pytest.raises(AttributeError, match=f"module 'tricorn.socketserver' has no attribute '{name}'"):
            getattr(facade, name)


def test_classes_of_absent_features_are_absent(script: Any) -> None:
    """Where there is no fork and no Unix socket, the names are not there at all: not stubs that raise."""
    program = script(
        """
        import os, socket
        del os.fork, socket.AF_UNIX
        from tricorn import socketserver
        import socketserver as original
        print(sorted(socketserver.__all__) == sorted(original.__all__), len(socketserver.__all__))
        print([name for name in vars(socketserver) if "Unix" in name or "Forking" in name])
        """
    )
    out, err = program.communicate()
    assert (out.splitlines(), err) == (["True 9", "[]"], "")


def test_the_next_versions_defaults(script: Any) -> None:
    """From 3.15 on the backlog is the system's, and the module's version number warns (gh-134249, gh-76007)."""
    program = script(
        """
        import socket, sys, warnings, attrs, selectors, threading, traceback, contextlib, enum, typing, select
        sys.version_info = (3, 15, 0, "final", 0)
        from tricorn import socketserver
        print(socketserver.TCPServer.request_queue_size == socket.SOMAXCONN)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(socketserver.__version__, caught[0].category.__name__)
        """
    )
    out, err = program.communicate()
    assert (out.splitlines(), err) == (["True", "0.4 DeprecationWarning"], "")
