"""A server in a process of its own: how a dispatcher that forks serves in the background.

Forking from a program with threads is unsafe, and a background server is a thread.  So `Server.start` forks once,
while the program still has a single thread; the new process serves, stays single-threaded, and forks as it likes.
This side keeps one thread that passes the events on to the observers and waits for the end.

The two talk over a socket pair that keeps messages apart (SOCK_SEQPACKET): JSON, never a pickle.  The end of that
stream is the end of the process; the death of this program reaches it as SIGTERM, which drains it.
"""

from __future__ import annotations

import json
import queue
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from attrs import evolve

from tricorn.deadline import Deadline
from tricorn.engine import CANCEL_GRACE_S, Engine
from tricorn.errors import DrainTimeout, StateError
from tricorn.events import DrainReport, Event, JobInfo, ServerClosed, WorkerEnded
from tricorn.forking import Child, admit_termination, fork_child, refuse_if_threaded
from tricorn.observers import Observers
from tricorn.report import shorten
from tricorn.signals import draining_signals
from tricorn.wire import MAX_PACKET, decode_value, encode_value

__all__ = ["ServerProcess", "launch"]

#: Seconds within which the process answers a question.
ANSWER_S = 2.0
#: Jobs in flight are told in packets of about this size.
BATCH_BYTES = 100_000
#: Seconds beyond its deadline that the process gets before it is killed.
KILL_GRACE_S = 2 * CANCEL_GRACE_S + 2.0


def _send(sock: socket.socket, kind: str, value: Any) -> None:
    try:
        sock.send(json.dumps([kind, encode_value(value)]).encode("ascii"))
    except OSError:
        pass  # the other process is gone, which its end of the stream tells better


def _send_jobs(sock: socket.socket, kind: str, infos: Iterable[JobInfo]) -> None:
    """In as many packets as it takes, each with room to spare."""
    packet: list[JobInfo] = []
    room = BATCH_BYTES
    for info in infos:
        fitting = evolve(info, stack=shorten(info.stack, BATCH_BYTES // 4))
        size = len(json.dumps(encode_value(fitting)))
        if packet and size > room:
            _send(sock, kind, packet)
            packet, room = [], BATCH_BYTES
        packet.append(fitting)
        room -= size
    if packet:
        _send(sock, kind, packet)


class _Forwarder:
    """The only observer inside the process: everything that somebody outside wants to hear goes out."""

    def __init__(self, control: socket.socket, wanted: Observers) -> None:
        self._control = control
        self.quiet = not (wanted.of_starts or wanted.of_completions)

    def __call__(self, event: Event) -> None:
        if isinstance(event, ServerClosed):  # its stacks may be more than a packet holds
            _send_jobs(self._control, "abandoned", event.report.abandoned)
            event = ServerClosed(evolve(event.report, abandoned=()))
        _send(self._control, "event", event)


def launch(
    what: str,
    engine: Engine,
    serve: Callable[[Observers], object],
    observers: Observers,
    ended: Callable[[DrainReport], None],
) -> ServerProcess:
    """Fork a process that runs ``serve`` with the observers it is given, and close our copies of the listeners.

    ``ended`` is called with the report when it is over, on a thread of our own.  Raises `~tricorn.errors.StateError`
    in a program that has threads already, `OSError` if fork(2) fails.
    """
    refuse_if_threaded(what)
    observers.refresh()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def main() -> int:
        ours.close()
        return _serve_here(engine, theirs, lambda: serve(Observers([_Forwarder(theirs, observers)])))

    try:
        child = fork_child(main, death_signal=signal.SIGTERM)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    for listener in engine.listeners:
        listener.disown()
    engine.leave_it_to_another_process()
    return ServerProcess(child, ours, engine, observers, ended)


def _serve_here(engine: Engine, control: socket.socket, serve: Callable[[], object]) -> int:
    """Inside the new process."""
    for listener in engine.listeners:
        listener.adopt()
    control.setblocking(True)

    def obey() -> None:
        try:
            while packet := control.recv(MAX_PACKET, socket.MSG_DONTWAIT):
                _obey(engine, control, *json.loads(packet))
        except BlockingIOError:
            return
        except OSError:
            pass
        engine.request_stop()  # the program that started us is gone

    engine.intake.watch(control.fileno(), obey)
    engine.between = obey
    with draining_signals(engine, (signal.SIGTERM,), again=False):
        admit_termination()
        serve()
    return 0


def _obey(engine: Engine, control: socket.socket, order: str, value: Any) -> None:
    if order == "drain":
        engine.limit(value)
        engine.request_stop()
    elif order == "reload":
        engine.dispatcher.reload()
    elif order == "jobs":
        number, stacks = value
        _send_jobs(control, "jobs", engine.service.ledger.in_flight(stacks=stacks))
        _send(control, "answered", number)


class ServerProcess:
    """The outside of a server process.  Safe from any thread; `request_stop` also from a signal handler."""

    def __init__(
        self,
        child: Child,
        control: socket.socket,
        engine: Engine,
        observers: Observers,
        ended: Callable[[DrainReport], None],
    ) -> None:
        self._tell_end = ended
        self._child = child
        self._control = control
        self._engine = engine
        self._observers = observers
        self._answers: queue.SimpleQueue[tuple[int, tuple[JobInfo, ...]]] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._questions = 0
        self._collected: dict[str, list[JobInfo]] = {"jobs": [], "abandoned": []}
        self.pid = child.pid
        self.report: DrainReport | None = None
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="tricorn-serve", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        """Until the process ends, which its pidfd tells: children of its handlers may hold its end of the stream."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._child.pidfd, selectors.EVENT_READ)
            ended = False
            while not ended:
                ended = any(key.fd == self._child.pidfd for key, _ in selector.select())
                if not self._hear() and not ended:
                    selector.unregister(self._control)  # the end of the stream: only the process's own end is left
                    selector.select()
                    ended = True
        self._ended()

    def _hear(self) -> bool:
        """Take in all that has come; False at the end of the stream."""
        while True:
            try:
                packet = self._control.recv(MAX_PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # it ended with an order of ours unread; what it had said comes behind this
            except OSError:
                return False
            if not packet:
                return False
            try:
                kind, value = json.loads(packet)
                self._take_in(kind, decode_value(value))
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
                continue  # no packet of ours; the thread has to live on

    def _take_in(self, kind: str, value: Any) -> None:
        if kind in self._collected:
            self._collected[kind] += value
        elif kind == "answered":
            infos, self._collected["jobs"] = self._collected["jobs"], []
            self._answers.put((value, tuple(infos)))
        elif isinstance(value, ServerClosed):
            self.report = evolve(value.report, abandoned=tuple(self._collected["abandoned"]))
            self._observers.tell(ServerClosed(self.report))
        else:
            self._observers.tell(value)

    def _ended(self) -> None:
        _, words = self._child.reap()
        self._control.close()
        self._engine.intake.close()
        if self.report is None:
            self.report = DrainReport(0.0, accepted=1, lost=1)
            self._observers.tell(WorkerEnded(self.pid, words, expected=False))
            self._observers.tell(ServerClosed(self.report))
        self._tell_end(self.report)
        self.done.set()

    def request_stop(self) -> None:
        """Ask it to drain; never blocks."""
        self._engine.intake.stop()  # the wake-up is a socket that the process shares

    def reload(self) -> None:
        """Let its dispatcher reload."""
        _send(self._control, "reload", None)

    def jobs(self, *, stacks: bool) -> tuple[JobInfo, ...]:
        """What is in flight over there; nothing once it is over."""
        with self._asking:
            if self.done.is_set():
                return ()
            self._questions += 1
            _send(self._control, "jobs", [self._questions, stacks])
            until = Deadline.after(ANSWER_S)
            while not until.expired:
                try:
                    number, infos = self._answers.get(timeout=until.remaining())
                except queue.Empty:
                    break
                if number == self._questions:  # and not the late answer to an earlier one
                    return infos
            if self.done.is_set():
                return ()
            raise StateError(f"the server process {self.pid} did not answer within {ANSWER_S} s")

    def drain(self, timeout: float) -> DrainReport:
        """Drain it, and wait for its end; it is killed if it does not end a while after ``timeout`` seconds."""
        _send(self._control, "drain", timeout)
        if not self.done.wait(timeout + KILL_GRACE_S):
            self._child.send_signal(signal.SIGKILL)
        self._thread.join(KILL_GRACE_S)
        if self.report is None:
            raise DrainTimeout(f"the server process {self.pid} was killed, and has still not ended")
        return self.report
