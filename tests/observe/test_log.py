"""The default observer: one event, one record, at the right level, and never an error of its own."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from tricorn import events as facts
from tricorn.errors import HandshakeError, PeerRefused, RemoteError
from tricorn.events import Outcome, Stage, Status
from tricorn.observe import LogObserver
from tricorn.observers import Observers

PEER = ("127.0.0.1", 4711)
FORGED = "x\n2030-01-01 ERROR forged\x1b[31m"


class Collected(logging.Handler):
    """Keeps records and what a plain formatter makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))
        self.records.append(record)


@pytest.fixture
def logger() -> logging.Logger:
    """A logger of its own, at DEBUG, with a collecting handler."""
    logger = logging.Logger("tricorn.test", logging.DEBUG)
    logger.addHandler(Collected())
    return logger


def told(logger: logging.Logger, event: facts.Event) -> Any:
    """The one record that ``event`` gives, and its text; or None."""
    (handler,) = logger.handlers
    assert isinstance(handler, Collected)
    handler.records.clear()
    handler.texts.clear()
    observer = LogObserver(logger)
    observer(event)
    assert observer.dropped == 0
    assert len(handler.records) <= 1
    return (handler.records[0], handler.texts[0]) if handler.records else None


def outcome(status: Status, error: BaseException | None = None, detail: str = "", peer: object = PEER) -> Outcome:
    return Outcome(7, status, Stage.HANDLER, peer, ("127.0.0.1", 80), 1.5, error, detail)


def report(**changes: Any) -> facts.DrainReport:
    counts = dict.fromkeys(
        ("accepted", "completed", "failed", "refused", "disconnected", "timed_out", "cancelled", "lost"), 0
    )
    return facts.DrainReport(duration=0.25, **(counts | changes))


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (facts.ServerStarted((("127.0.0.1", 80), "/run/x"), 99), "INFO", "serving on 127.0.0.1:80, /run/x, pid 99"),
        (facts.ServerStopping(3), "INFO", "stopping, 3 in flight"),
        (facts.ServerClosed(report(accepted=2)), "INFO", "closed: drained in 0.250 s: 2 accepted"),
        (facts.ServerClosed(report(accepted=2, lost=1)), "WARNING", "closed: drained in 0.250 s: 2 accepted, 1 lost"),
        (facts.JobStarted(7, PEER, None), "DEBUG", "request 7 from 127.0.0.1:4711 started"),
        (
            facts.JobFinished(outcome(Status.COMPLETED)),
            "DEBUG",
            "request 7 from 127.0.0.1:4711 completed at stage handler after 1.500 s",
        ),
        (
            facts.JobFinished(outcome(Status.DISCONNECTED, ConnectionResetError(104, "reset"))),
            "DEBUG",
            (
                "request 7 from 127.0.0.1:4711 disconnected at stage handler after 1.500 s: "
                "ConnectionResetError: [Errno 104] reset"
            ),
        ),
        (facts.JobFinished(outcome(Status.TIMED_OUT, TimeoutError())), "DEBUG", None),
        (facts.JobFinished(outcome(Status.CANCELLED)), "INFO", None),
        (facts.JobFinished(outcome(Status.ABANDONED)), "WARNING", None),
        (facts.JobFinished(outcome(Status.LOST, detail="died of SIGKILL")), "WARNING", None),
        (facts.JobFinished(outcome(Status.FAILED, HandshakeError("no shared cipher"))), "WARNING", None),
        (facts.JobRefused(outcome(Status.REFUSED, detail="verify returned false")), "INFO", None),
        (facts.JobRefused(outcome(Status.REFUSED, PeerRefused("port 0"))), "INFO", None),
        (facts.JobRefused(outcome(Status.REFUSED, RuntimeError("no thread"))), "WARNING", None),
        (
            facts.AcceptPaused(OSError(24, "Too many open files"), 0.1, 4),
            "WARNING",
            (
                "accepting paused for 0.100 s: OSError: [Errno 24] Too many open files "
                "(4 such pauses before this one not told)"
            ),
        ),
        (facts.WorkerStarted(5), "INFO", "worker 5 started"),
        (facts.WorkerStarted(6, replaces=5), "INFO", "worker 6 started in place of 5"),
        (facts.WorkerEnded(5, "exit 0", True), "INFO", "worker 5 ended: exit 0; 0 requests lost"),
        (facts.WorkerEnded(5, "SIGKILL", False, (1, 2)), "WARNING", "worker 5 ended: SIGKILL; 2 requests lost"),
    ],
)
def test_records(logger: logging.Logger, event: Any, level: str, text: str | None) -> None:
    """Each event gives one record of its level, on one line, and without a traceback where nothing of ours broke."""
    record, shown = told(logger, event)
    assert record.levelname == level
    if text is not None:
        assert shown == text
    assert ("\n" in shown) == (text is None and "no thread" in shown)


def test_failed_request(logger: logging.Logger) -> None:
    """A failure is one ERROR record with peer, stage and traceback, and has the exception itself too."""
    error = raised(KeyError("missing"))
    record, shown = told(logger, facts.JobFinished(outcome(Status.FAILED, error)))
    first, *rest = shown.split("\n")
    assert first == "request 7 from 127.0.0.1:4711 failed at stage handler after 1.500 s: KeyError: 'missing'"
    assert (rest[0], rest[-1]) == ("Traceback (most recent call last):", "KeyError: 'missing'")
    assert record.levelno == logging.ERROR
    assert record.exc_info[1] is error


def test_failure_in_another_process(logger: logging.Logger) -> None:
    """Of an error that came from another process the traceback of that process is shown."""
    error = RemoteError("KeyError", "'missing'", "Traceback (there):\n  File x\nKeyError: 'missing'\n")
    _, shown = told(logger, facts.JobFinished(outcome(Status.FAILED, error)))
    assert shown.split("\n")[1:] == ["| Traceback (there):", "|   File x", "| KeyError: 'missing'"]


def test_verify_that_raised(logger: logging.Logger) -> None:
    """A refusal because something of ours raised comes with its traceback."""
    error = raised(ZeroDivisionError("oops"))
    record, shown = told(logger, facts.JobRefused(outcome(Status.REFUSED, error, "verify raised")))
    assert "after 1.500 s: verify raised: ZeroDivisionError: oops\nTraceback" in shown
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize(
    "event",
    [
        facts.JobStarted(7, FORGED, None),
        facts.JobFinished(outcome(Status.FAILED, raised(ValueError(FORGED)), FORGED, FORGED)),
        facts.JobFinished(outcome(Status.FAILED, RemoteError(FORGED, FORGED, FORGED))),
        facts.JobRefused(outcome(Status.REFUSED, None, FORGED, FORGED)),
        facts.WorkerEnded(5, FORGED, False),
        facts.AcceptPaused(OSError(FORGED), 1.0),
        facts.ReloadFailed(ValueError(FORGED)),
        facts.JobOverdue(facts.JobInfo(1, FORGED, 1.0, facts.Stage.HANDLER, FORGED, FORGED), 1.0),
        facts.LoopBlocked(1.0, FORGED),
        facts.ServerStarted((FORGED,), 1),
    ],
)
def test_no_record_can_be_forged(logger: logging.Logger, event: Any) -> None:
    """Nothing in an event starts a line that looks like a record, or brings a control character."""
    _, shown = told(logger, event)
    assert not [line for line in shown.split("\n") if line.startswith("2030")]
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("level", "wanted", "quiet"),
    [
        (logging.DEBUG, set(facts.Event.__args__), False),
        (logging.INFO, set(facts.Event.__args__) - {facts.JobStarted}, True),
        (
            logging.WARNING,
            {
                facts.ServerClosed,
                facts.JobRefused,
                facts.JobFinished,
                facts.JobOverdue,
                facts.LoopBlocked,
                facts.AcceptPaused,
                facts.ReloadFailed,
                facts.WorkerEnded,
            },  # fmt: skip
            True,
        ),
        (logging.ERROR, {facts.JobFinished}, True),
        (logging.CRITICAL, set(), True),
    ],
)
def test_wanted_events(logger: logging.Logger, level: int, wanted: set[type], quiet: bool) -> None:
    """The observer wants what it would write at the present level, and says so to the server."""
    logger.setLevel(level)
    observer = LogObserver(logger)
    assert observer.events == wanted
    assert observer.quiet is quiet
    observers = Observers([observer])
    assert (observers.of_starts, observers.of_completions) == (not quiet, not quiet)


def test_nothing_below_the_level(logger: logging.Logger) -> None:
    """What the level forbids is not written, even if the server tells it."""
    logger.setLevel(logging.CRITICAL)
    for status in Status:
        assert told(logger, facts.JobFinished(outcome(status, ValueError()))) is None
    assert told(logger, facts.JobStarted(1, PEER, None)) is None


def test_unknown_event(logger: logging.Logger) -> None:
    """An event of a later version is left alone."""
    assert told(logger, object()) is None  # type: ignore[arg-type]


def test_default_logger(caplog: pytest.LogCaptureFixture) -> None:
    """Without a logger it is the one named after the library, and level and name are on the record."""
    with caplog.at_level(logging.INFO, logger="tricorn"):
        LogObserver()(facts.ServerStopping(0))
    assert caplog.record_tuples == [("tricorn", logging.INFO, "stopping, 0 in flight")]


def test_broken_handler(logger: logging.Logger) -> None:
    """A log that raises is counted and costs nothing else."""

    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(28, "No space left on device")

    logger.handlers[:] = [Full()]
    observer = LogObserver(logger)
    for _ in range(2):
        observer(facts.ServerStopping(0))
    assert observer.dropped == 2


def test_unprintable_peer(logger: logging.Logger) -> None:
    """A peer object that cannot be shown is counted as well."""

    class Shy:
        def __str__(self) -> str:
            raise ZeroDivisionError

    observer = LogObserver(logger)
    observer(facts.JobStarted(1, Shy(), None))
    assert observer.dropped == 1


def test_encodable(logger: logging.Logger) -> None:
    """A lone surrogate in a peer's path can be written to a UTF-8 file."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    logger.handlers[:] = [logging.StreamHandler(stream)]
    LogObserver(logger)(facts.JobFinished(outcome(Status.FAILED, raised(ValueError("\udcff")), peer="/run/\udcff")))
    assert raw.getvalue().startswith(rb"request 7 from /run/\udcff failed")
