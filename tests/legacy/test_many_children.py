"""The bound on children: the module's first text wished for one, ``max_children`` is it."""

from __future__ import annotations

import selectors
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

CLIENTS = 200
MAX_CHILDREN = 7
#: Seconds that one step may take.
PATIENCE_S = 30

#: Its children count themselves in shared memory: those in a handler, the most there ever were, those that are done.
SERVER = """
import fcntl, mmap, struct, sys, tempfile
from tricorn import socketserver

clients, bound = map(int, sys.argv[1:])
counters = mmap.mmap(-1, 12)
lock = tempfile.TemporaryFile()

def count(change):
    fcntl.lockf(lock, fcntl.LOCK_EX)  # such locks belong to processes, so that a child may inherit the file
    now, most, done = struct.unpack("iii", counters[:])
    now += change
    counters[:] = struct.pack("iii", now, max(most, now), done + (change < 0))
    fcntl.lockf(lock, fcntl.LOCK_UN)

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        count(+1)
        self.wfile.write(b"here\\n")
        self.wfile.write(self.rfile.readline().upper())  # until the client lets it go
        count(-1)

class Server(socketserver.ForkingTCPServer):
    max_children = bound
    request_queue_size = clients
    alive = taken = 0

    def process_request(self, request, client_address):
        super().process_request(request, client_address)
        self.alive = max(self.alive, len(self.active_children))
        self.taken += 1

    def service_actions(self):
        super().service_actions()
        if self.taken == clients and not self.active_children:
            self.shutdown()

with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever(0.05)
lock.close()
print(*struct.unpack("iii", counters[:]), server.alive)
"""


def be_all_clients(port: int) -> tuple[int, list[bytes]]:
    """Connect all of them, let them go only when as many as may be are being served; the most at once, and the replies.

    A crowd as large as the bound is awaited, or all that are left: the bound is reached, then, and not only kept.
    """
    replies, greeted, most, released = [], [], 0, 0
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(CLIENTS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
            selector.register(sock, selectors.EVENT_READ)
        while released < CLIENTS:
            ready = selector.select(PATIENCE_S)
            assert ready, f"nobody more is served; {released} were, {len(greeted)} are"
            for key, _ in ready:
                assert key.fileobj.recv(5) == b"here\n"
                selector.unregister(key.fileobj)
                greeted.append(key.fileobj)
            most = max(most, len(greeted))
            if len(greeted) >= min(MAX_CHILDREN, CLIENTS - released):
                replies += [let_go(each, released + number) for number, each in enumerate(greeted)]
                released += len(greeted)
                greeted.clear()
    return most, replies


def let_go(sock: socket.socket, number: int) -> bytes:
    """What the server replies to a line, up to its end."""
    sock.sendall(b"client %d\n" % number)
    with sock.makefile("rb") as replies:
        return replies.read()


@pytest.mark.slow
def test_seven_children_at_a_time_serve_two_hundred_clients(script: Callable[..., subprocess.Popen[str]]) -> None:
    """All of them, by `ForkingTCPServer` with ``max_children = 7``; the seven are there at once, an eighth never is."""
    server = script(SERVER, CLIENTS, MAX_CHILDREN)
    most_seen, replies = be_all_clients(int(server.stdout.readline()))
    output, errors = server.communicate(timeout=PATIENCE_S)
    assert (server.returncode, errors) == (0, "")
    in_handlers, most_in_handlers, served, most_alive = map(int, output.split())
    assert sorted(replies) == sorted(b"CLIENT %d\n" % number for number in range(CLIENTS))
    assert (served, in_handlers) == (CLIENTS, 0)
    assert (most_alive, most_in_handlers, most_seen) == (MAX_CHILDREN, MAX_CHILDREN, MAX_CHILDREN)


@pytest.mark.parametrize("reaped_elsewhere", [False, True])
def test_children_are_collected_beside_foreign_ones(script: Any, *, reaped_elsewhere: bool) -> None:
    """An ended child of the program's own hides nothing; one of ours that somebody else waited for is forgotten."""
    program = script(
        f"""
        import os, socket
        from tricorn import socketserver

        def ended(pid):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

        def fork():
            pid = os.fork()
            if not pid:
                os._exit(7)
            ended(pid)
            return pid

        foreign = 0 if {reaped_elsewhere} else fork()
        with socketserver.ForkingTCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
            for _ in range(3):
                with socket.create_connection(server.server_address) as client:
                    server.handle_request()
                for pid in server.active_children:
                    ended(pid)
            if {reaped_elsewhere}:
                for pid in server.active_children:
                    os.waitpid(pid, 0)
            assert len(server.active_children) == 3
            server.collect_children()
            print(server.active_children)
        if foreign:
            print(os.waitstatus_to_exitcode(os.waitpid(foreign, 0)[1]))
        """
    )
    out, err = program.communicate(timeout=PATIENCE_S)
    assert (out.splitlines(), err) == (["set()"] if reaped_elsewhere else ["set()", "7"], "")
