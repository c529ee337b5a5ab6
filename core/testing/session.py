"""One server under examination, with its clients and its books."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from attrs import define, field

from tricorn.contracts import Dispatcher, Kind, Shape
from tricorn.events import DrainReport, JobFinished, Outcome, ServerClosed
from tricorn.lifecycle import State
from tricorn.server import Server
from tricorn.testing import bounds
from tricorn.testing.bounds import expect, in_thread
from tricorn.testing.callers import Caller, Exchange
from tricorn.testing.leaks import no_leaks
from tricorn.testing.obedient import LETTER, Obedient
from tricorn.testing.obedient_coroutine import ObedientCoroutine
from tricorn.testing.recorder import Recorder

__all__ = ["Bench", "Session"]


@define(eq=False)
class Session:
    """A server with the obedient handler on one kind of transport."""

    server: Server
    handler: Obedient | ObedientCoroutine
    recorder: Recorder
    exchange: Exchange
    #: Requests that must be able to run at once.
    capacity: int
    _callers: list[Caller] = field(factory=list, init=False)

    def call(self, *words: str) -> Caller:
        """A new client; it gives the order at once if there is one."""
        caller = self.exchange.call(self.server.address)
        self._callers.append(caller)
        if words:
            caller.say(" ".join(words))
        return caller

    def ask(self, *words: str) -> str:
        """The answer to one request."""
        caller = self.call(*words)
        try:
            heard = caller.hear()
        except AssertionError as error:
            raise AssertionError(f"{' '.join(words)!r}: {error}") from None
        caller.close()
        return heard

    def check_alive(self, after: str) -> None:
        """It still answers."""
        heard = self.ask("echo", "alive")
        expect(heard == "alive", f"after {after} a new request got {heard!r} instead of its answer")

    def outcome_of(self, *words: str) -> Outcome:
        """How a request ended; everything before it has ended, too."""
        number = len(self._callers)  # each caller made one request
        self.recorder.wait(JobFinished, number)
        self.call(*words)
        return self.recorder.outcome(number + 1)

    def hold(self) -> Caller:
        """A client whose request is running now, and goes on until `release`."""
        caller = self.call("hold")
        heard = caller.hear()
        expect(heard == "held", f"a request that was to wait got {heard!r}")
        return caller

    @property
    def gate(self) -> Path:
        """The file that held requests wait for to disappear."""
        return Path(self.handler.gate)

    def release(self) -> None:
        """Let the held requests end."""
        self.gate.unlink(missing_ok=True)

    def check_capacity(self) -> None:
        """As many requests as there is room for run at once."""
        self.gate.touch()
        held = []
        for n in range(self.capacity):
            try:
                held.append(self.hold())
            except AssertionError as error:
                raise AssertionError(f"only {n} of {self.capacity} requests could run at once: {error}") from None
        self.release()
        for caller in held:
            expect(caller.hear() == "done", "a request that was held did not end when it was let go")

    def drain(self, timeout: float) -> DrainReport:
        """`Server.drain`, but whoever waits for it in vain is told so."""
        if self.server.state is State.BOUND:  # nobody serves: it is this thread that ends the server
            return self.server.drain(timeout)
        with in_thread(lambda: self.server.drain(timeout), f"drain({timeout:g})", timeout) as reports:
            pass
        return cast("DrainReport", reports[0])

    def finish(self) -> DrainReport:
        """Drain, where nothing should be in the way of a clean end."""
        report = self.drain(bounds.BOUND_S)
        expect(report.clean, f"the drain had to cut something off, or lost it: {report}")
        return report

    def closed(self) -> DrainReport:
        """How it ended, once it did; somebody else has asked for it."""
        self.recorder.wait(ServerClosed)
        return self.drain(bounds.BOUND_S)

    def tidy(self) -> None:
        """Whatever happened: let everything go."""
        self.release()
        for caller in self._callers:
            with suppress(OSError):
                caller.close()
        self.drain(1.0)
        self.exchange.close()


@define(eq=False)
class Bench:
    """Makes sessions for one kind of request."""

    factory: Callable[[], Dispatcher]
    kind: Kind
    pause: Callable[[float], object]
    capacity: int

    @contextmanager
    def session(self, *, start: bool = True, **options: Any) -> Iterator[Session]:
        """A fresh dispatcher in a fresh server; nothing may be left of it, and its books must balance."""
        with no_leaks():
            folder = tempfile.mkdtemp(prefix="tricorn-")
            gate = os.path.join(folder, "gate")
            Path(gate).touch()
            try:
                session = self._build(gate, options)
                try:
                    if start:
                        session.server.start()
                    yield session
                finally:
                    session.tidy()
                assert session.server.report is not None
                session.recorder.check_books(session.server.report)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _build(self, gate: str, options: dict[str, Any]) -> Session:
        recorder, exchange, dispatcher = Recorder(), Exchange(self.kind), self.factory()
        blocking = Shape.FUNCTION in dispatcher.shapes
        handler = Obedient(gate, self.pause) if blocking else ObedientCoroutine(gate, self.kind)
        token = LETTER.set("base")  # the server's base context is the one that it was built in
        try:
            server = Server(
                exchange.transport(), dispatcher, handler,
                observers=[recorder, *options.pop("observers", ())], log=False, max_connections=self.capacity,
                **options,
            )  # fmt: skip
        finally:
            LETTER.reset(token)
        handler.server = server
        return Session(server, handler, recorder, exchange, self.capacity)
