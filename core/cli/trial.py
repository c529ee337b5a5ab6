"""One cell of the matrix: a server on an address of its own, and a client that knows nothing of Tricorn."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from urllib.parse import quote

from attrs import frozen

from tricorn import names
from tricorn.cli.client import NoClient, converse, prepare_items, wrapper_options
from tricorn.contracts import Kind, Shape, Transport
from tricorn.errors import ConfigurationError, IncompatibleParts, PluginConflict, PluginLoad, UnknownPlugin
from tricorn.events import Event, JobFinished, JobRefused
from tricorn.forking import fork_child
from tricorn.handlers import Chunks, message
from tricorn.importing import explain
from tricorn.locations import HOST_AND_PORT, NOWHERE, PATH
from tricorn.observe.escape import escape_error
from tricorn.parts import TransportPart, WrapperPart
from tricorn.server import Server

__all__ = ["FAILED", "NOT_TRIED", "REFUSED", "SERVED", "Trial", "row_of", "trial_address", "try_pair"]

SERVED, REFUSED, NOT_TRIED, FAILED = "served", "refused", "not tried", "failed"
#: Seconds that a server gets to end, and that a trial gets beyond its client's patience.
DRAIN_S, GRACE_S = 1.0, 5.0


@frozen
class Trial:
    """What came of one pair.  ``reason`` says why it was not served; ``seconds`` is how long all of it took."""

    transport: str
    dispatcher: str
    result: str
    reason: str = ""
    seconds: float = 0.0


@message(Chunks())
def _echo_chunks(chunk: object) -> object:
    """For dispatchers that call no plain functions; an item has nobody to be answered."""
    return chunk if isinstance(chunk, bytes) else None


def row_of(part: TransportPart | WrapperPart) -> str:
    """What the part's row is called; a wrapper is tried around TCP."""
    return part.scheme if isinstance(part, TransportPart) else f"{part.name}+tcp"


def trial_address(part: TransportPart | WrapperPart, folder: Path) -> str | None:
    """An address that nobody else has: a free port of the loopback interface, a path in ``folder``; ``None`` if the
    part does not tell what its addresses look like.  Raises `NoClient` for a wrapper that nobody can talk to."""
    if isinstance(part, WrapperPart):
        return f"{row_of(part)}://127.0.0.1:0?{wrapper_options(part.name, folder)}"
    if part.example is not None:
        return f"{part.scheme}:{part.example.replace('{folder}', quote(os.fsencode(folder)))}"
    if part.locate is HOST_AND_PORT:
        return f"{part.scheme}://127.0.0.1:0"
    if part.locate is PATH:
        return f"{part.scheme}:{quote(os.fsencode(folder / 'server'))}"
    return f"{part.scheme}:" if part.locate is NOWHERE else None


def try_pair(part: TransportPart | WrapperPart, dispatcher: str, folder: Path, timeout: float) -> Trial:
    """Serve one echo, in a process of its own where there are such: whatever a plugin leaves behind ends with it.

    Returns within ``timeout`` + 5 seconds.  ``folder`` is private and empty.
    """
    pair = (row_of(part), dispatcher)
    try:
        text = trial_address(part, folder)
    except NoClient as error:
        return Trial(*pair, NOT_TRIED, str(error))
    if text is None:
        reason = f"transport '{row_of(part)}' gives no example of an address that can be served on any machine"
        return Trial(*pair, NOT_TRIED, reason)
    began = monotonic()

    def attempt() -> tuple[str, str]:
        return _attempt(text, dispatcher, folder, timeout)

    result, reason = _in_child(attempt, timeout + GRACE_S) if hasattr(os, "pidfd_open") else attempt()
    return Trial(*pair, result, reason, round(monotonic() - began, 4))


def _attempt(text: str, dispatcher: str, folder: Path, timeout: float) -> tuple[str, str]:
    """The result, and the reason."""
    troubles: list[str] = []
    server = None
    try:
        transport = names.transport(text)
        if transport.kind is Kind.ITEM:
            prepare_items(transport)
        made = names.dispatcher(dispatcher)
        handler = "echo" if Shape.FUNCTION in made.shapes else _echo_chunks
        server = Server(transport, made, handler, log=False, observers=[_complainer(troubles)], drain_timeout=DRAIN_S)
        return SERVED, _serve_once(server, transport, folder, timeout)
    except IncompatibleParts as error:
        return REFUSED, str(error)
    except (UnknownPlugin, PluginConflict, PluginLoad) as error:
        return FAILED, str(error)
    except (ConfigurationError, NoClient) as error:
        return NOT_TRIED, str(error)
    except Exception as error:
        if server is not None and server.report is not None and not server.report.clean:
            troubles.append(f"the server {server.report}")
        return FAILED, "; ".join([explain(error), *troubles])


def _serve_once(server: Server, transport: Transport, folder: Path, timeout: float) -> str:
    payload = os.urandom(1000)
    with server:
        server.start()
        answer = converse(transport, server.address, payload, folder, timeout)
        report = server.drain()
    if answer != payload:
        raise RuntimeError(f"{len(payload)} bytes were sent, and {len(answer)} other ones came back")
    if not report.clean:
        raise RuntimeError("the client was served, and then requests had to be cut off")
    return ""


def _complainer(troubles: list[str]) -> Callable[[Event], None]:
    def complain(event: Event) -> None:
        if isinstance(event, JobFinished | JobRefused) and event.outcome.error is not None:
            troubles.append(f"the server says: {escape_error(event.outcome.error)}")

    return complain


def _in_child(attempt: Callable[[], tuple[str, str]], patience: float) -> tuple[str, str]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:

        def main() -> int:
            theirs.send(json.dumps(attempt()).encode("ascii"))
            return 0

        child = fork_child(main, death_signal=signal.SIGKILL)
        try:
            told, ended = _listen(ours, child.pidfd, patience)
        finally:
            child.send_signal(signal.SIGKILL)
            _, words = child.reap()
    if told:
        result, reason = json.loads(told)
        return result, reason
    return FAILED, f"its process {words}" if ended else f"it hung: nothing came of it in {patience:g} seconds"


def _listen(sock: socket.socket, pidfd: int, patience: float) -> tuple[bytes, bool]:
    """What the child tells, and whether it has ended; returns once one of these is there, or after ``patience``."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    ready = dict(poll.poll(patience * 1000))
    try:
        return sock.recv(65536, socket.MSG_DONTWAIT), pidfd in ready
    except BlockingIOError:
        return b"", pidfd in ready
