"""New certificates while connections are open."""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from tricorn import ConfigurationError, Server, StateError
from tricorn.events import ReloadFailed, WorkerStarted
from tricorn.strategies import ProcessPool, Sync, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP


def echo(connection: Any) -> None:
    while data := connection.recv():
        connection.send(data)


def exchange(client: ssl.SSLSocket) -> str:
    """Say something and hear it; returns the serial number of the server's certificate."""
    client.sendall(b"ping")
    assert client.recv(10) == b"ping"
    return client.getpeercert()["serialNumber"]


@pytest.fixture
def renewable(authority: Any, tmp_path: Path) -> Any:
    """A transport whose files can be renewed, and the function that renews them."""
    stem = f"renewable-{tmp_path.name}"
    certfile, keyfile = authority.issue("localhost", stem=stem)
    return authority.tls(certfile=certfile, keyfile=keyfile), lambda: authority.issue("localhost", stem=stem)


def test_new_files_are_used_from_then_on(renewable: Any, dispatcher: Any, serve: Any, call: Any) -> None:
    """By whichever process serves, while open connections go on with what they have."""
    transport, renew = renewable
    server = serve(transport, dispatcher, echo)
    first = call(server)
    old = exchange(first)
    renew()
    server.reload()
    if isinstance(dispatcher, Sync):  # it serves one after the other
        assert exchange(first) == old
        first.close()
    for _ in range(6):
        client = call(server)
        assert exchange(client) != old
        client.close()
    if not isinstance(dispatcher, Sync):
        assert exchange(first) == old


def test_renewed_files_wait_for_the_reload(renewable: Any, serve: Any, call: Any) -> None:
    """Nobody watches them."""
    transport, renew = renewable
    server = serve(transport, ThreadPool(4), echo)
    old = exchange(call(server))
    renew()
    assert exchange(call(server)) == old


def test_files_that_cannot_be_used_change_nothing(renewable: Any, dispatcher: Any, serve: Any, call: Any) -> None:
    """The error is raised where reload was called, and all goes on with the old ones."""
    transport, renew = renewable
    server = serve(transport, dispatcher, echo)
    client = call(server)
    old = exchange(client)
    client.close()
    Path(transport.certfile).write_text("-----BEGIN CERTIFICATE-----\ncut off")
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        server.reload()
    client = call(server)
    assert exchange(client) == old
    client.close()
    renew()
    server.reload()
    assert exchange(call(server)) != old


def test_a_certificate_renewed_before_its_key_is_not_used(
    renewable: Any, authority: Any, serve: Any, call: Any
) -> None:
    """Half of a renewal is a mismatch, and the next reload mends it."""
    transport, renew = renewable
    server = serve(transport, ThreadPool(8), echo)
    old_key = Path(transport.keyfile).read_text()
    old = exchange(call(server))
    renew()
    new_key = Path(transport.keyfile).read_text()
    Path(transport.keyfile).write_text(old_key)
    with pytest.raises(ConfigurationError, match="does not belong"):
        server.reload()
    assert exchange(call(server)) == old
    Path(transport.keyfile).write_text(new_key)
    server.reload()
    assert exchange(call(server)) != old


def test_a_worker_that_comes_later_has_the_new_ones(
    renewable: Any, serve: Any, call: Any, recorder: Any, tmp_path: Path
) -> None:
    """A replaced worker of a process pool begins with what is in the files."""
    transport, renew = renewable

    def die_on_demand(connection: Any) -> None:
        if connection.recv() == b"die":
            os._exit(3)
        connection.send(b"ping")

    server = serve(transport, ProcessPool(1), die_on_demand)
    client = call(server)
    old = exchange(client)
    client.close()
    renew()
    server.reload()
    client = call(server)
    client.sendall(b"die")
    assert client.recv(1) == b""
    recorder.wait(WorkerStarted, 2)
    assert exchange(call(server)) != old


def test_of_several_transports_each_reloads_by_itself(
    authority: Any, renewable: Any, call: Any, tmp_path: Path
) -> None:
    """One that cannot keeps what it has and is told of; the others have theirs new."""
    transport, renew = renewable
    certfile, keyfile = authority.issue("localhost", stem=f"other-{tmp_path.name}")
    other = authority.tls(certfile=certfile, keyfile=keyfile)
    with Server([other, transport, TCP("127.0.0.1", 0)], ThreadPool(4), echo) as server:
        server.start()
        address = server.addresses
        old = [exchange(call(address[0])), exchange(call(address[1]))]
        os.remove(certfile)
        renew()
        with pytest.raises(ConfigurationError, match="cannot be read"):
            server.reload()
        assert exchange(call(address[0])) == old[0]
        assert exchange(call(address[1])) != old[1]


def test_a_server_that_is_not_bound_has_nothing_to_reload(authority: Any) -> None:
    """It will read the files when it is."""
    with pytest.raises(StateError, match="cannot reload: the server is new"):
        Server(authority.tls(), Sync(), echo).reload()


def test_a_signal_handler_may_reload(renewable: Any, serve: Any, call: Any) -> None:
    """As daemons do."""
    import signal

    transport, renew = renewable
    server = serve(transport, ThreadPool(8), echo)
    old = exchange(call(server))
    before = signal.signal(signal.SIGHUP, lambda *_: server.reload())
    try:
        renew()
        signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert exchange(call(server)) != old


def test_a_reload_by_signal_that_fails_is_told_and_costs_nothing(authority: Any, call: Any, tmp_path: Path) -> None:
    """The server goes on with what it had."""
    import signal

    certfile, keyfile = authority.issue("localhost", stem=f"gone-{tmp_path.name}")
    recorder = Recorder()
    server = Server(authority.tls(certfile=certfile, keyfile=keyfile), ThreadPool(4), echo, observers=[recorder])
    server.bind()
    seen = []

    def spoil() -> None:
        try:
            seen.append(exchange(call(server)))
            os.remove(certfile)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
            assert "cannot be read" in str(recorder.wait(ReloadFailed, 1)[0].error)
            seen.append(exchange(call(server)))
        finally:
            server.request_stop()

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    server.serve_forever(signals=True)
    spoiler.join()
    assert len(seen) == 2 and seen[0] == seen[1]


def test_reloading_under_load_costs_no_connection(renewable: Any, serve: Any, call: Any, authority: Any) -> None:
    """Every handshake that runs meanwhile ends well, with the old certificate or the new one."""
    transport, renew = renewable
    server = serve(transport, ThreadPool(8), echo)
    over = threading.Event()
    seen: set[str] = set()

    def knock() -> None:
        while not over.is_set():
            client = call(server)
            seen.add(exchange(client))
            client.close()

    thread = threading.Thread(target=knock)
    thread.start()
    for _ in range(10):
        renew()
        server.reload()
    over.set()
    thread.join(10)
    last = exchange(call(server))
    assert not thread.is_alive()
    assert len(seen | {last}) > 1


def test_a_handed_over_connection_is_encrypted_too(authority: Any, dial: Any) -> None:
    """A dispatcher that is given single jobs passes the descriptor to a worker, which does the handshake."""
    with Server(authority.tls(), ProcessPool(1), echo) as server:
        plain = dial(server)
        assert server.handle_request(10)
        client = authority.client().wrap_socket(plain, server_hostname="localhost")
        with client:
            client.sendall(b"ping")
            assert client.recv(10) == b"ping"
