"""One request after the other, in the serving thread."""

from __future__ import annotations

from typing import ClassVar

from attrs import define

from tricorn.contracts import Dispatcher, Intake, Job

__all__ = ["Sync"]


@define(eq=False)
class Sync(Dispatcher):
    """Runs each request where it was accepted; the next one waits in the kernel meanwhile.

    The right choice for quick handlers on datagrams, for tests, and inside a `ProcessPool`; one slow client holds up
    all others.  Replaces `socketserver.TCPServer` and `~socketserver.UDPServer` without a mix-in.
    """

    in_place: ClassVar[bool] = True

    @property
    def concurrency(self) -> int:
        """One."""
        return 1

    def serve(self, intake: Intake) -> None:
        """Run every job of the intake on this thread."""
        if type(self).dispatch is Sync.dispatch:
            intake.run_each()
        else:
            super().serve(intake)

    def dispatch(self, job: Job) -> None:
        """Serve ``job`` to its end, here and now."""
        job.run()
