"""How a job's end travels from a child process to its parent: one JSON object, never a pickle."""

from __future__ import annotations

import json
import struct
import traceback
from socket import socket

from attrs import frozen

from tricorn.errors import RemoteError
from tricorn.events import Stage, Status

__all__ = ["MAX_REPORT", "Report", "receive_report", "remote_error", "send_report", "shorten"]

#: The longest report in bytes, as JSON.
MAX_REPORT = 60_000
#: Room in it for a traceback and for a message; what is longer loses its middle.
_MAX_TRACEBACK, _MAX_TEXT = 40_000, 8_000


def shorten(text: str, room: int) -> str:
    """``text`` without its middle, if it takes more than ``room`` bytes as JSON (a character takes 1, 6 or 12)."""
    size = len(json.dumps(text))
    if size <= room:
        return text
    half = max(0, room - 20) // 24 if not text.isascii() else max(0, room - 20) // 12
    return text[:half] + "\n  [...]\n" + text[len(text) - half :]


def remote_error(error: BaseException) -> RemoteError:
    """The text of ``error``, its traceback included, as an error that can travel."""
    if isinstance(error, RemoteError):
        return error
    text = "".join(traceback.format_exception(error))
    return RemoteError(type(error).__name__, shorten(str(error), _MAX_TEXT), shorten(text, _MAX_TRACEBACK))


@frozen
class Report:
    """How a job ended, as far as the process that ran it knows."""

    status: Status
    stage: Stage
    error: BaseException | None = None
    detail: str = ""

    def encode(self) -> bytes:
        """As one packet; the usual one is short: every function that a forked child calls costs it pages."""
        if self.status is Status.COMPLETED and self.stage is Stage.HANDLER and self.error is None and not self.detail:
            return _USUAL_PACKET
        packet: dict[str, object] = {"status": self.status.value, "stage": self.stage.value, "detail": self.detail}
        if self.error is not None:
            far = remote_error(self.error)
            packet["error"] = [far.kind, far.text, far.traceback]
        return json.dumps(packet).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Report:
        """The reverse of `encode`; raises `ValueError` for what is not a report."""
        if data == _USUAL_PACKET:
            return _USUAL
        try:
            packet = json.loads(data)
            error = RemoteError(*packet["error"]) if "error" in packet else None
            return cls(Status(packet["status"]), Stage(packet["stage"]), error, packet["detail"])
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise ValueError(f"{data[:100]!r} is no report") from error


#: A job that completed.
_USUAL, _USUAL_PACKET = Report(Status.COMPLETED, Stage.HANDLER), b"."

_NUMBER = struct.Struct("=Q")


def send_report(channel: socket, number: int, report: bytes) -> None:
    """From the process that ran job ``number``; ``channel`` keeps messages apart.  Blocks while it is full."""
    channel.send(_NUMBER.pack(number) + report)


def receive_report(channel: socket) -> tuple[int, bytes] | None:
    """The next number and report; ``None`` if there is none now, or the other end is gone.  Never blocks on a
    non-blocking ``channel``."""
    try:
        packet = channel.recv(MAX_REPORT + _NUMBER.size)
    except (BlockingIOError, ConnectionError):
        return None
    if len(packet) < _NUMBER.size:  # the end, or nobody's report
        return None
    (number,) = _NUMBER.unpack_from(packet)
    return number, packet[_NUMBER.size :]
