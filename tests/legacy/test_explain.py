"""What `explain` makes of classes: their corners, their overrides, their sharp edges."""

from __future__ import annotations

import http.server
import socket
import socketserver
import ssl
import wsgiref.simple_server
import xmlrpc.server
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tricorn import socketserver as facade
from tricorn.errors import ConfigurationError
from tricorn.explain import explain

BOTH = pytest.mark.parametrize("module", [socketserver, facade], ids=["original", "facade"])


def facts(server: type, handler: object = None) -> dict[str, str]:
    """The sharp edges by name."""
    return {edge.name: edge.fact for edge in explain(server, handler).edges}


def moved(server: type) -> dict[tuple[str, str], str]:
    """Where the overridden methods go, by class and name."""
    return {(each.cls, each.method): each.goes_to for each in explain(server).overrides}


def corners(server: type) -> tuple[str, str]:
    """The transport and the dispatcher."""
    program = explain(server).program
    return program.transport, program.dispatcher


class Level(socketserver.TCPServer):
    request_queue_size = 200
    allow_reuse_address = True

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return True


class Deeper(socketserver.ThreadingMixIn, Level):
    block_on_close = False
    address_family = socket.AF_INET6

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        super().process_request_thread(request, client_address)

    def service_actions(self) -> None:
        pass

    def handle_timeout(self) -> None:
        pass


class Behind(http.server.HTTPServer, socketserver.ThreadingMixIn):
    daemon_threads = True


class Pooled(socketserver.TCPServer):
    pool = ThreadPoolExecutor

    def process_request(self, request: Any, client_address: Any) -> None:
        self.pool(1).submit(self.finish_request, request, client_address)


class Wrapped(socketserver.TCPServer):
    def get_request(self) -> Any:
        connection, address = super().get_request()
        return ssl.create_default_context().wrap_socket(connection, server_side=True), address


class Unbound(socketserver.UDPServer):
    max_packet_size = 100_000
    allow_reuse_port = True


class Silent(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.shutdown()


class Shadow:
    def get_request(self) -> None: ...


class Shadowed(socketserver.TCPServer, Shadow): ...


@BOTH
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TCPServer", ('TCP("127.0.0.1", 0)', "Sync()")),
        ("UDPServer", ('UDP("127.0.0.1", 0)', "Sync()")),
        ("ThreadingTCPServer", ('TCP("127.0.0.1", 0)', "Thread(limit=256)")),
        ("ForkingUDPServer", ('UDP("127.0.0.1", 0)', "Fork(max_children=40)")),
        ("ThreadingUnixStreamServer", ('UnixStream("server.sock")', "Thread(limit=256)")),
        ("UnixDatagramServer", ('UnixDatagram("server.sock")', "Sync()")),
    ],
)
def test_the_documented_classes(module, name, expected) -> None:
    """A transport by a dispatcher, whichever module they are of."""
    assert corners(getattr(module, name)) == expected


def test_class_attributes_become_options() -> None:
    """Those that the class itself sets; what it leaves alone is left to the transport."""
    assert corners(Deeper) == ('TCP("::1", 0, backlog=200)', "Thread(limit=256)")
    assert corners(Unbound)[0] == 'UDP("127.0.0.1", 0, max_packet_size=65535, deliver_truncated=True, reuse_port=True)'
    forking = type("Forking", (socketserver.ForkingMixIn, socketserver.TCPServer), {"max_children": 7})
    assert corners(forking)[1] == "Fork(max_children=7)"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"daemon_threads": True}, "drain_timeout=0,  # daemon_threads is true"),
        ({}, "drain_timeout=8,  # block_on_close is true"),
        ({"block_on_close": False}, "drain_timeout=8,  # block_on_close is false"),
    ],
)
def test_the_end_is_carried_over(attributes, expected) -> None:
    """As a time to drain in, which is finite."""
    server = type("Ending", (socketserver.ThreadingMixIn, socketserver.TCPServer), attributes)
    assert expected in explain(server).program.text


def test_a_mix_in_behind_the_server_does_nothing() -> None:
    """It is said so, and the composition does what the class does today."""
    assert corners(Behind)[1] == "Sync()"
    assert "ThreadingMixIn stands behind BaseServer" in facts(Behind)["mix-in-order"]
    assert "one-at-a-time" in facts(Behind)
    assert not {"unbounded-threads", "daemon-threads"} & facts(Behind).keys()


def test_overrides_of_every_level_have_their_place() -> None:
    """By class and method."""
    found = moved(Deeper)
    assert found["Level", "verify_request"].startswith("Server(verify=...)")
    assert "return value" in found["Deeper", "handle_timeout"]
    assert "thread of your own" in found["Deeper", "service_actions"]
    assert len(found) == 4
    assert "verify=verify" in explain(Deeper).program.text
    assert moved(Wrapped)["Wrapped", "get_request"].startswith("a transport")


def test_an_override_that_is_never_called_is_marked() -> None:
    """The class that hides it is named."""
    (override,) = explain(Shadowed).overrides
    assert (override.cls, override.method, override.hidden_by) == ("Shadow", "get_request", "TCPServer")
    assert "Shadow.get_request (never called: TCPServer comes first)" in str(explain(Shadowed))


def test_a_pool_of_ones_own_becomes_a_dispatcher() -> None:
    """By what process_request uses."""
    assert corners(Pooled)[1] == "ThreadPool()"
    assert "a dispatcher" in moved(Pooled)["Pooled", "process_request"]


def test_tls_around_the_listener_is_seen() -> None:
    """By what its methods use."""
    assert facts(Wrapped)["tls-handshake"].startswith("Wrapped.get_request wraps a socket with TLS")
    assert "tls-handshake" not in facts(socketserver.ThreadingTCPServer)
    assert "tls-handshake" not in facts(http.server.ThreadingHTTPServer)


@pytest.mark.parametrize(
    ("server", "there", "not_there"),
    [
        (
            http.server.ThreadingHTTPServer,
            {"unbounded-threads", "daemon-threads", "reverse-dns", "backlog", "idle-clients", "errors-to-stderr"},
            {"joins-without-limit", "address-in-use", "cut-datagrams", "one-at-a-time", "fork-with-threads"},
        ),
        (
            xmlrpc.server.SimpleXMLRPCServer,
            {"one-at-a-time", "backlog", "shutdown-in-handler", "idle-clients"},
            {"reverse-dns", "address-in-use", "unbounded-threads", "service-actions"},
        ),
        (
            wsgiref.simple_server.WSGIServer,
            {"one-at-a-time", "reverse-dns", "backlog"},
            {"address-in-use", "daemon-threads"},
        ),
        (
            socketserver.ForkingTCPServer,
            {"fork-with-threads", "fork-keeps-listener", "joins-without-limit", "service-actions", "address-in-use"},
            {"unbounded-threads", "one-at-a-time", "cut-datagrams"},
        ),
        (socketserver.ThreadingUDPServer, {"cut-datagrams", "joins-without-limit"}, {"backlog", "address-in-use"}),
        (socketserver.UnixStreamServer, {"address-in-use"}, {"reverse-dns", "cut-datagrams"}),
        (Deeper, {"raising-hooks", "service-actions", "joins-without-limit"}, {"backlog", "address-in-use"}),
    ],
)
def test_only_the_edges_that_apply(server, there, not_there) -> None:
    """No more, and no less."""
    found = facts(server).keys()
    assert there <= found
    assert not not_there & found


def test_each_edge_is_one_sentence() -> None:
    """With a full stop at its end."""
    for server in (Deeper, Behind, Wrapped, socketserver.ForkingTCPServer, socketserver.ThreadingUDPServer):
        for fact in facts(server, Silent if server is not socketserver.ThreadingUDPServer else None).values():
            assert fact.endswith(".")
            assert ". " not in fact


def test_a_handler_that_calls_shutdown_is_named() -> None:
    """It is the one that deadlocks."""
    assert "(Silent calls it)" in facts(socketserver.TCPServer, Silent)["shutdown-in-handler"]
    assert "calls it" not in facts(socketserver.TCPServer)["shutdown-in-handler"]


def test_the_facade_has_mended_some() -> None:
    """Those are not told of a class that stands on it."""
    gone = facts(socketserver.ForkingTCPServer).keys() - facts(facade.ForkingTCPServer).keys()
    assert {"shutdown-in-handler", "shutdown-waits", "fork-reaps-others", "out-of-descriptors"} <= gone
    assert facts(facade.ForkingTCPServer).keys() <= facts(socketserver.ForkingTCPServer).keys()
    assert explain(facade.TCPServer).on_facade
    assert not explain(socketserver.TCPServer).on_facade


def test_a_server_without_a_socket_needs_a_transport() -> None:
    """The printed program says which."""

    class Table(socketserver.BaseServer):
        def get_request(self) -> Any:
            return 1, "row"

    program = explain(Table).program
    assert program.transport == "Source()"
    assert "In the place of Table.get_request" in program.text
    compile(program.text, "composed.py", "exec")


def test_no_instance_is_made_and_nothing_is_called() -> None:
    """A class whose every method raises is explained like any other."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("called")

    names = ("__init__", "server_bind", "server_activate", "get_request", "verify_request", "finish_request", "fileno")
    server = type("Mined", (socketserver.TCPServer,), dict.fromkeys(names, refuse))
    compile(explain(server).program.text, "composed.py", "exec")
    assert {method for _, method in moved(server)} == set(names)


@pytest.mark.parametrize("thing", [int, Silent, print, None, "text", object()])
def test_anything_else_is_refused(thing) -> None:
    """As a configuration error."""
    with pytest.raises(ConfigurationError, match="is no socketserver class|is no server class"):
        explain(thing)
