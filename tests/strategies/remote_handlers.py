"""Message handlers for workers in other processes, which import this file by its name."""

from __future__ import annotations

import os
import signal
from typing import Any

from tricorn.handlers import Chunks, Lines, message


class Odd(Exception):
    """Cannot be pickled: it is made with two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def rendezvous(path: str) -> str:
    """Wait at a FIFO until the test has opened it too, and until it lets go."""
    with open(path) as gate:
        return gate.read()


@message(Lines(max_length=200_000, error_reply=b"too long\n"))
def obey(line: bytes, peer: Any) -> Any:
    """Do what the first word says."""
    word, _, rest = line.decode().partition(" ")
    if word == "say":
        return rest.upper().encode()
    if word == "note":
        with open(rest.split()[0], "a") as book:
            book.write(rest.split()[1] + "\n")
        return rest.encode()
    if word == "gate":
        return rendezvous(rest).encode()
    if word == "blow":
        return b"x" * int(rest)
    if word == "peer":
        return repr(peer).encode()
    if word == "raise":
        return _raise(rest)
    return {"pid": _pid, "die": _die, "two": _two}[word]()


def _pid() -> bytes:
    return b"%d" % os.getpid()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _two() -> Any:
    yield b"one"
    yield b"two"
    raise ValueError("three")


def _raise(kind: str) -> None:
    if kind == "odd":
        raise Odd("one", "two")
    raise {"value": ValueError, "refused": ConnectionRefusedError, "exit": SystemExit}[kind](f"of kind {kind}")


@message(Chunks())
def packet(data: bytes) -> bytes:
    """The whole packet, back to front."""
    return data[::-1]


@message(Lines())
def stateful(line: bytes, state: Any) -> bytes:
    """Wants what does not travel."""
    return line
