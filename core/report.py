"""How a job's end travels from a child process to its parent: one JSON object, never a pickle."""

from __future__ import annotations

import json
import struct
import traceback
from socket import socket

from attrs import frozen

from tricorn.errors import RemoteError
from tricorn.events import Stage, Status

__all__ = ["MAX_REPORT", "Report", "receive_report", "remote_error", "send_report"]

#: The longest report in bytes; longer tracebacks lose their middle.
MAX_REPORT = 60_000


def remote_error(error: BaseException) -> RemoteError:
    """The text of ``error``, its traceback included, as an error that can travel."""
    if isinstance(error, RemoteError):
        return error
    text = "".join(traceback.format_exception(error))
    if len(text) > MAX_REPORT // 4:  # a character is at most 6 bytes of JSON, and most are 1
        half = MAX_REPORT // 8
        text = text[:half] + "\n  [...]\n" + text[-half:]
    return RemoteError(type(error).__name__, str(error)[:2000], text)


@frozen
class Report:
    """How a job ended, as far as the process that ran it knows."""

    status: Status
    stage: Stage
    error: BaseException | None = None
    detail: str = ""

    def encode(self) -> bytes:
        """As one packet."""
        packet: dict[str, object] = {"status": self.status.value, "stage": self.stage.value, "detail": self.detail}
        if self.error is not None:
            far = remote_error(self.error)
            packet["error"] = [far.kind, far.text, far.traceback]
        return json.dumps(packet).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Report:
        """The reverse of `encode`; raises `ValueError` for what is not a report."""
        packet = json.loads(data)
        error = RemoteError(*packet["error"]) if "error" in packet else None
        return cls(Status(packet["status"]), Stage(packet["stage"]), error, packet["detail"])


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
    if not packet:
        return None
    (number,) = _NUMBER.unpack_from(packet)
    return number, packet[_NUMBER.size :]
