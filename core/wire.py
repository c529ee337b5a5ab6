"""Events as JSON packets, between the processes of one server.  Never a pickle."""

from __future__ import annotations

import json
from typing import Any

import attrs

from tricorn import events
from tricorn.errors import RemoteError
from tricorn.events import DrainReport, Event, JobInfo, Outcome, Stage, Status
from tricorn.report import remote_error

__all__ = ["MAX_PACKET", "decode_event", "decode_value", "encode_event", "encode_value"]

#: The longest packet in bytes; the kernel's default for a Unix datagram is 212,992.
MAX_PACKET = 200_000

_KINDS: dict[str, type] = {
    name: getattr(events, name)
    for name in (
        "AcceptPaused",
        "DrainReport",
        "JobFinished",
        "JobInfo",
        "JobOverdue",
        "JobRefused",
        "JobStarted",
        "LoopBlocked",
        "Outcome",
        "ReloadFailed",
        "ServerClosed",
        "ServerStarted",
        "ServerStopping",
        "WorkerEnded",
        "WorkerStarted",
    )
}


def encode_value(value: Any) -> Any:
    """``value`` in JSON's own types: addresses become lists, records and errors objects with one key."""
    if isinstance(value, (Status, Stage)):
        return {type(value).__name__: value.value}
    if isinstance(value, OSError) and not isinstance(value, ConnectionError) and value.errno is not None:
        return {"OSError": [value.errno, str(value.strerror)]}
    if isinstance(value, BaseException):
        far = remote_error(value)
        return {"RemoteError": [far.kind, far.text, far.traceback]}
    if attrs.has(type(value)):
        fields = attrs.fields(type(value))
        return {type(value).__name__: {field.name: encode_value(getattr(value, field.name)) for field in fields}}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, (tuple, list)):
        return [encode_value(each) for each in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def decode_value(value: Any) -> Any:
    """The reverse of `encode_value`; lists become tuples, errors `~tricorn.errors.RemoteError`.

    Raises `ValueError` for what `encode_value` does not make: nothing else, whoever wrote it.
    """
    try:
        return _decode(value)
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"no value of ours: {error!r}") from error


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(each) for each in value)
    if not isinstance(value, dict):
        return value
    ((name, inside),) = value.items()
    if name == "bytes":
        return bytes.fromhex(inside)
    if name == "Status":
        return Status(inside)
    if name == "Stage":
        return Stage(inside)
    if name == "OSError":
        return OSError(*inside)
    if name == "RemoteError":
        return RemoteError(*inside)
    return _KINDS[name](**{key: _decode(each) for key, each in inside.items()})


def encode_event(event: Event | Outcome | DrainReport | JobInfo) -> bytes:
    """One record as one packet."""
    return json.dumps(encode_value(event)).encode("ascii")


def decode_event(packet: bytes) -> Any:
    """One packet as the record it was.  Raises `ValueError` where it was none."""
    try:
        return decode_value(json.loads(packet))
    except RecursionError as error:
        raise ValueError("nested too deeply to be a record of ours") from error
