"""A gevent dispatcher for Tricorn: a greenlet for each request."""

import gevent
import gevent.pool
import gevent.socket
from attrs import define, field, validators

from tricorn.connection import Connection
from tricorn.contracts import Dispatcher
from tricorn.hookspecs import hookimpl
from tricorn.parts import DispatcherPart
from tricorn.peer_socket import Tracked

__all__ = ["Gevent", "GreenSocket"]


class GreenSocket(Tracked, gevent.socket.socket):
    """What handlers get: a socket whose blocking calls let other greenlets run."""


@define(eq=False)
class Gevent(Dispatcher):
    """A greenlet for each request, all in the serving thread; handlers must be cooperative."""

    needs_descriptors = True

    limit: int = field(default=1000, validator=validators.ge(1), metadata={"help": "most greenlets at once"})
    _greenlets: gevent.pool.Group = field(factory=gevent.pool.Group, init=False, repr=False)
    _hub: gevent.hub.Hub | None = field(default=None, init=False, repr=False)

    @property
    def concurrency(self):
        """``limit``."""
        return self.limit

    def serve(self, intake):
        """Take jobs whenever there are some; the hub runs the greenlets while we wait."""
        self._hub = gevent.get_hub()
        ready = intake.fileno()
        while not intake.stopped:
            gevent.socket.wait_read(ready)
            while (job := intake.poll()) is not None:
                self.dispatch(job)

    def dispatch(self, job):
        """Start ``job`` in a greenlet; it has begun when this returns, so that a kill finds it inside ``run``."""
        self._greenlets.spawn(_run, job)
        gevent.sleep(0)

    def join(self, deadline):
        """Let the greenlets run until all are done or the deadline is there."""
        self._greenlets.join(deadline.remaining())
        return not len(self._greenlets)

    def cancel(self):
        """Raise GreenletExit in each, at the next join."""
        self._greenlets.kill(block=False)

    def close(self):
        """Give this thread's event loop back, unless it is the main thread's, which others may use."""
        if self._hub is not None and not self._hub.main_hub:
            self._hub.destroy()


def _run(job):
    request = job.request
    if type(request) is Connection:
        request.rehouse(GreenSocket)
    elif isinstance(request, Connection):  # TLS, say: it keeps its socket, and blocks a thread of the hub's instead
        gevent.get_hub().threadpool.apply(job.run)
        return
    job.run()


@hookimpl
def tricorn_dispatchers():
    """Asked for as ``gevent``."""
    yield DispatcherPart("gevent", Gevent)
