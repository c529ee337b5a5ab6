"""The laws of dispatchers.  Each is a function whose docstring is the law, and which raises `AssertionError` where
it is broken."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from tricorn.contracts import Dispatcher, Kind
from tricorn.events import JobFinished, JobRefused, JobStarted, ServerStopping, Status
from tricorn.lifecycle import State
from tricorn.testing import bounds
from tricorn.testing.bounds import alarm, expect, in_thread, on_main_thread
from tricorn.testing.session import Bench

__all__ = ["LAWS"]

#: Requests of a burst; each has a client of its own.
_BURST = 24
#: Seconds of a drain that is meant to pass its deadline.
_SHORT_S = 0.2


def every_job_has_one_outcome(bench: Bench) -> None:
    """every accepted request is served, and ends in exactly one outcome"""
    with bench.session() as session:
        callers = [session.call() for _ in range(_BURST)]
        for number, caller in enumerate(callers):
            caller.say(f"echo {number}")
        for number, caller in enumerate(callers):
            heard = caller.hear()
            expect(heard == str(number), f"request {number} of {_BURST} got {heard!r}")
        report = session.finish()
        expect(report.completed == _BURST, f"{_BURST} requests were served, and the report says: {report}")


def a_failing_handler_costs_only_itself(bench: Bench) -> None:
    """a handler that raises, SystemExit and KeyboardInterrupt included, costs its own request and nothing else"""
    with bench.session() as session:
        for name in ("ValueError", "OSError", "SystemExit", "KeyboardInterrupt"):
            outcome = session.outcome_of("raise", name)
            expect(outcome.status is Status.FAILED, f"a handler that raised {name} ended as {outcome.status.value}")
            session.check_alive(f"a handler that raised {name}")
        session.check_capacity()
        expect(session.finish().failed == 4, "the report does not count the four handlers that raised")


def returning_early_is_no_failure(bench: Bench) -> None:
    """a handler may return without an answer, and close its own connection"""
    with bench.session() as session:
        for word in ("return", "close") if bench.kind is Kind.STREAM else ("return",):
            outcome = session.outcome_of(word)
            expect(outcome.status is Status.COMPLETED, f"{word!r} ended as {outcome.status.value}: {outcome.error!r}")
            session.check_alive(f"a handler that obeyed {word!r}")
        session.check_capacity()
        session.finish()


def a_killed_handler_costs_only_itself(bench: Bench) -> None:
    """a handler whose process is killed, or ends by itself, is lost, and costs nothing else"""
    if not bench.factory().forks:
        return
    with bench.session() as session:
        for word in ("die", "exit"):
            outcome = session.outcome_of(word)
            expect(outcome.status is Status.LOST, f"{word!r} ended as {outcome.status.value}")
            session.check_alive(f"a handler that obeyed {word!r}")
        session.check_capacity()
        report = session.drain(bounds.BOUND_S)
        expect(report.lost == 2, f"two requests were lost, and the report says: {report}")


def a_caller_who_leaves_costs_nothing(bench: Bench) -> None:
    """a client that connects and leaves costs nothing"""
    if bench.kind is not Kind.STREAM:
        return
    with bench.session() as session:
        for _ in range(4):
            session.call().close()
        session.recorder.wait(JobFinished, 4)
        session.check_alive("clients that left")
        session.check_capacity()
        session.finish()


def a_refused_request_gives_its_place_back(bench: Bench) -> None:
    """what verify refuses never reaches the handler, and its place is free again"""
    sign = Path()

    def verify(request: object) -> bool:
        return not sign.exists()  # a file, since workers in other processes ask too

    with bench.session(start=False, verify=verify) as session:
        sign = session.gate.with_name("refuse")
        sign.touch()
        session.server.start()
        callers = [session.call("echo", "no") for _ in range(session.capacity + 1)]
        refused = session.recorder.wait(JobRefused, len(callers))
        expect(not session.recorder.of(JobStarted), "a refused request was started all the same")
        expect(all(each.outcome.status is Status.REFUSED for each in refused), "a refusal is not counted as one")
        sign.unlink()
        session.check_alive("refusals")
        session.check_capacity()
        expect(session.finish().refused == len(callers), "the report does not count every refusal")


def the_excess_waits(bench: Bench) -> None:
    """what is beyond the capacity waits, and is served when there is room again"""
    with bench.session() as session:
        held = [session.hold() for _ in range(session.capacity)]
        waiting = [session.call("echo", str(n)) for n in range(4)]
        session.release()
        for caller in held:
            expect(caller.hear() == "done", "a held request did not end when it was let go")
        for n, caller in enumerate(waiting):
            heard = caller.hear()
            expect(heard == str(n), f"a request that had to wait got {heard!r}")
        most = session.recorder.most_at_once()
        told = session.server.dispatcher.forks or most <= session.capacity
        expect(told, f"{most} requests ran at once where {session.capacity} may")
        session.finish()


def each_request_has_a_fresh_context(bench: Bench) -> None:
    """each handler runs in a fresh copy of the context that the server was built in"""
    with bench.session() as session:
        for _ in range(3 * session.capacity):
            heard = session.ask("letter")
            expect(heard == "base", f"a handler saw {heard!r} in a context variable that was 'base' for the server")
        session.finish()


def an_idle_connection_does_not_hold_up_a_drain(bench: Bench) -> None:
    """a drain ends idle connections at once"""
    if bench.kind is not Kind.STREAM:
        return
    with bench.session() as session:
        idle = [session.call() for _ in range(session.capacity)]
        session.recorder.wait(JobStarted, len(idle))
        report = session.finish()  # an idle connection that holds it up is cancelled at the deadline: not clean
        expect(report.completed == len(idle), f"{len(idle)} idle connections were ended, and the report says: {report}")
        expect(all(caller.hear() == "" for caller in idle), "a client of an idle connection did not see the end")


def a_drain_waits_for_running_requests(bench: Bench) -> None:
    """a drain lets running requests finish"""
    with bench.session() as session:
        held = [session.hold() for _ in range(session.capacity)]
        with in_thread(lambda: session.server.drain(bounds.BOUND_S), "a drain whose last request had ended") as reports:
            session.recorder.wait(ServerStopping)
            session.release()
        expect(all(caller.hear() == "done" for caller in held), "a running request was cut off")
        (report,) = reports
        expect(report.clean and report.completed == len(held), f"{len(held)} requests ended well; the report: {report}")
        expect(session.server.state is State.CLOSED, f"after the drain the server is {session.server.state.value}")
        expect(session.server.drain(bounds.BOUND_S) == report, "a second drain returned another report")


def a_drain_ends_by_its_deadline(bench: Bench) -> None:
    """a drain ends by its deadline even with a handler that never returns, and reports that handler"""
    with bench.session() as session:
        caller = session.hold()
        report = session.drain(_SHORT_S)
        left = report.cancelled + len(report.abandoned)
        expect(left == 1, f"one handler was still running, and the report says: {report}")
        named = [info.peer for info in report.abandoned] or [session.recorder.outcome(1).peer]
        expect(named == [caller.name], f"the report names the peers {named}, and it was {caller.name}")


def a_silent_peer_is_cut_off_at_the_deadline(bench: Bench) -> None:
    """a handler that waits for the rest of a request is cut off at the drain deadline"""
    if bench.kind is not Kind.STREAM:
        return
    with bench.session() as session:
        heard = session.call("linger").hear()
        expect(heard == "lingering", f"a request that was to linger got {heard!r}")
        report = session.drain(_SHORT_S)
        expect(report.cancelled == 1, f"a handler waited for its peer at the deadline, and the report says: {report}")


def stopping_before_the_start_ends_it_at_once(bench: Bench) -> None:
    """a server that is asked to stop before it starts ends by itself"""
    with bench.session(start=False) as session:
        session.server.request_stop()
        session.server.start()
        expect(session.closed().accepted == 0, "a server that was stopped before the start took a request in")


def stopping_works_from_any_thread(bench: Bench) -> None:
    """request_stop works from any thread, twice, and after the end"""
    with bench.session() as session:
        session.check_alive("the start")
        threads = [threading.Thread(target=session.server.request_stop) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(session.closed().completed == 1, "a request that was served before the stop is not in the report")
        session.server.request_stop()


def stopping_works_from_a_handler(bench: Bench) -> None:
    """request_stop works from a handler, which still finishes"""
    with bench.session() as session:
        heard = session.ask("stop")
        expect(heard == "stopped", f"the request that stopped the server got {heard!r}")
        expect(session.closed().completed == 1, "the request that stopped the server did not complete")


def stopping_works_from_a_signal_handler(bench: Bench) -> None:
    """request_stop works from a signal handler while the main thread serves"""
    if not on_main_thread():
        return
    with bench.session(start=False) as session:
        session.server.bind()
        caller = session.call("signal")
        previous = signal.signal(signal.SIGUSR1, lambda number, frame: session.server.request_stop())
        try:
            with alarm("serve_forever in the main thread, after a signal handler called request_stop,"):
                report = session.server.serve_forever()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        expect(caller.hear() == "signalled", "the request that sent the signal was cut off")
        expect(report.completed == 1, f"one request was served, and the report says: {report}")


def single_requests_are_dispatched(bench: Bench) -> None:
    """a dispatcher that takes single jobs serves them through handle_request"""
    sample = bench.factory()
    if type(sample).dispatch is Dispatcher.dispatch or (sample.forks and bench.kind is Kind.ITEM):
        return  # a lease has no descriptor that could be handed to a process that runs already
    with bench.session(start=False) as session:
        session.server.bind()
        caller = session.call("echo", "single")
        taken = session.server.handle_request(timeout=bounds.BOUND_S)
        expect(taken, "handle_request took no request though one was waiting")
        session.finish()
        expect(caller.hear() == "single", "the one request got no answer")


LAWS: tuple[Any, ...] = (
    every_job_has_one_outcome,
    a_failing_handler_costs_only_itself,
    returning_early_is_no_failure,
    a_killed_handler_costs_only_itself,
    a_caller_who_leaves_costs_nothing,
    a_refused_request_gives_its_place_back,
    the_excess_waits,
    each_request_has_a_fresh_context,
    an_idle_connection_does_not_hold_up_a_drain,
    a_drain_waits_for_running_requests,
    a_drain_ends_by_its_deadline,
    a_silent_peer_is_cut_off_at_the_deadline,
    stopping_before_the_start_ends_it_at_once,
    stopping_works_from_any_thread,
    stopping_works_from_a_handler,
    stopping_works_from_a_signal_handler,
    single_requests_are_dispatched,
)
