"""Route: what it may be made of, and what it is then able to do."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import attrs
import pytest

from tricorn import ConfigurationError, IncompatibleParts, Server, StateError
from tricorn.contracts import Dispatcher, Kind, Shape
from tricorn.names import dispatcher as named
from tricorn.strategies import Fork, ProcessPool, Route, Sync, Thread, ThreadPool
from tricorn.transports import TCP, Memory


def choose(request: object) -> str:
    return "one"


async def choose_later(request: object) -> str:
    return "one"


@attrs.define(eq=False)
class Loop(Dispatcher):
    """Serves an intake, and nothing else."""

    def serve(self, intake: Any) -> None:
        for job in intake:
            job.run()


@attrs.define(eq=False)
class Packets(Dispatcher):
    """Serves datagrams to functions."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.DATAGRAM})
    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.FUNCTION})
    in_place: ClassVar[bool] = True

    def dispatch(self, job: Any) -> None:
        job.run()


@attrs.define(eq=False)
class Talks(Packets):
    """Serves connections."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.STREAM})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Route(choose),
            r"^Route has no dispatcher to send anything to; give it some by name: Route\(choose, l",
        ),
        (lambda: Route(None, one=Sync()), r"Route\(choose=None\): choose must be a function that takes one request"),
        (lambda: Route(choose_later, one=Sync()), "and returns a name at once"),
        (
            lambda: Route(choose, one=Sync),
            r"Route\(one=<class .*must stand for a dispatcher.*; did you mean Sync\(\)\?",
        ),
        (lambda: Route(choose, one="sync"), r"Route\(one='sync'\): every name must stand for a dispatcher such as Thr"),
        (
            lambda: Route(choose, one=Loop()),
            r"one=Loop\(\)\): Loop only serves all .* no single requests; use Sync\(\)",
        ),
        (
            lambda: Route(choose, peek=-1, one=Sync()),
            r"Route\(peek=-1\): peek must be a whole number .* from 0 to 65536",
        ),
        (lambda: Route(choose, peek=65537, one=Sync()), r"Route\(peek=65537\)"),
        (lambda: Route(choose, peek=True, one=Sync()), r"Route\(peek=True\)"),
        (lambda: Route(choose, peek=Sync()), r"Route\(peek=Sync\(\)\)"),
        (lambda: Route(choose, first_bytes_timeout=0, one=Sync()), r"first_bytes_timeout must be seconds, above 0"),
        (lambda: Route(choose, first_bytes_timeout=None, one=Sync()), r"Route\(first_bytes_timeout=None\)"),
        (lambda: Route(choose, one=Packets(), two=Talks()), "serve no kind of request in common"),
        (lambda: Route(choose, one=Thread(), two=Fork()), r"Route cannot have Fork beside Thread: .* use Sync\(\), or"),
        (lambda: Route(choose, one=ProcessPool(1), two=ThreadPool(1)), "cannot have ProcessPool beside ThreadPool"),
        (
            lambda: Route(choose, one=Route(choose, one=Sync(), two=Thread()), two=Route(choose, one=Fork())),
            "cannot have Fork beside Thread",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(make: Any, said: str) -> None:
    """With a sentence that says which part, and what would work."""
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_a_route_can_what_all_its_dispatchers_can() -> None:
    """Kinds and shapes are those that they have in common, and it forks if one of them does."""
    route = Route(choose, one=Sync(), two=Packets(), three=Fork())
    assert (route.kinds, route.shapes) == ({Kind.DATAGRAM}, {Shape.FUNCTION})
    assert (route.forks, route.in_place, route.needs_descriptors) == (True, True, False)
    route = Route(choose, one=Thread(), two=ThreadPool())
    assert (route.kinds, route.shapes) == (Thread().kinds & ThreadPool().kinds, Thread().shapes & ThreadPool().shapes)
    assert (route.forks, route.in_place, route.needs_descriptors) == (False, False, False)
    assert Route(choose, peek=1, one=Sync()).needs_descriptors


def test_concurrency_is_the_sum() -> None:
    """Each dispatcher counted once; without a limit where one has none, or where silent connections need room."""
    pool = ThreadPool(3)
    assert Route(choose, one=pool, again=pool, two=Thread(4)).concurrency == 7
    assert Route(choose, one=Sync(), two=Route(choose, one=ProcessPool(2, inner=Thread(5)))).concurrency == 11
    assert Route(choose, one=Sync(), two=Packets()).concurrency is None
    assert Route(choose, one=Sync(), two=Route(choose, peek=1, one=Thread(4))).concurrency is None


def test_it_shows_what_it_is_made_of() -> None:
    """As one would write it."""
    assert (
        repr(Route(choose, peek=4, one=Sync(), two=Thread(3)))
        == "Route(choose, peek=4, one=Sync(), two=Thread(limit=3))"
    )


def test_requests_without_descriptors_cannot_be_waited_for() -> None:
    """Memory transports are refused together with ``peek``, and served without."""
    with pytest.raises(IncompatibleParts, match="Route waits for descriptors, and requests of Memory have none"):
        Server(Memory(), Route(choose, peek=1, one=Thread()), print)
    with Server(Memory(), Route(choose, one=Thread()), lambda connection: connection.send(b"here")) as server:
        server.start()
        client = server.transports[0].connect()
        assert client.recv(10) == b"here"
        client.close()


def test_a_program_with_threads_is_refused() -> None:
    """As under the dispatcher that forks itself, before anything is served."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="somebody-else")
    thread.start()
    try:
        for begin in ("start", "serve_forever"):
            server = Server(TCP("127.0.0.1", 0), Route(choose, one=Sync(), two=Fork()), print)
            with pytest.raises(StateError, match=r"Route.* cannot fork in a program with 2 threads .*somebody-else"):
                getattr(server, begin)()
            assert server.state.value == "closed"
    finally:
        end.set()
        thread.join()


def test_as_text_it_says_that_it_is_built_in_python() -> None:
    """A function and several dispatchers are no options."""
    with pytest.raises(ConfigurationError, match=r"dispatcher 'route' needs option 'choose': .*build the part in Pyth"):
        named("route")
