"""The server under test: real, in a process of its own, with a handler that does what its peer says.

    python tests/faults/server.py --dispatcher 'thread-pool?workers=8' tcp://127.0.0.1:0

One request is a line, an order; the reply is a line.  It prints ``ready ADDRESS``, and at its end ``report {...}``.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs

from tricorn import Admission, Deadlines, Drop, Listener, Reject, Server, Transport, names
from tricorn.handlers import Lines, message

HANGS_S = 3600.0


class Whim(BaseException):
    """Nobody's exception."""


def _recurse() -> bytes:
    return _recurse()


def _raise(error: BaseException) -> bytes:
    raise error


def _end(number: int) -> bytes:
    os.kill(os.getpid(), number)
    time.sleep(HANGS_S)  # where it reached another thread first
    return b"still there"


def _files() -> bytes:
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in taken:
            os.close(fd)


def _descriptors_of_a_program() -> bytes:
    """How many sockets a program would inherit that the handler starts carelessly."""
    script = "import os; print(sum(os.readlink(f'/proc/self/fd/{n}').startswith('socket') for n in range(3, 200) "
    script += "if os.path.exists(f'/proc/self/fd/{n}')))"
    return subprocess.run([sys.executable, "-c", script], close_fds=False, stdout=-1, check=True).stdout.strip()


ORDERS: dict[bytes, Callable[[], bytes]] = {
    b"pid": lambda: b"%d" % os.getpid(),
    b"raise": lambda: _raise(ValueError("bad\nline \x1b[31m")),
    b"base": lambda: _raise(Whim("whim")),
    b"exit": lambda: _raise(SystemExit(3)),
    b"interrupt": lambda: _raise(KeyboardInterrupt()),
    b"memory": lambda: _raise(MemoryError()),
    b"recurse": _recurse,
    b"kill": lambda: _end(signal.SIGKILL),
    b"segv": lambda: _end(signal.SIGSEGV),
    b"leave": lambda: os._exit(0),
    b"stop": lambda: _end(signal.SIGSTOP),
    b"files": _files,
    b"exec": _descriptors_of_a_program,
    b"child": lambda: b"%d" % subprocess.run([sys.executable, "-c", "raise SystemExit(7)"], check=False).returncode,
}


def answer(line: bytes) -> bytes:
    """What becomes of one order."""
    order, _, rest = line.strip().partition(b" ")
    if order == b"sleep":
        time.sleep(float(rest))
        return b"slept\n"
    if order == b"block":
        time.sleep(float(rest))
        return b"blocked\n"
    if order == b"hang":
        time.sleep(HANGS_S)
    if order == b"big":
        return bytes(int(rest)) + b"\n"
    if order == b"size":
        return b"%d\n" % len(line)
    return ORDERS[order]() + b"\n" if order in ORDERS else line.strip() + b"\n"


def blocking(request: Any) -> None:
    """A function: a conversation, or a packet."""
    if hasattr(request, "reply"):
        request.reply(answer(request.data))
        return
    with request.makefile() as file:
        while line := file.readline(1_000_000):
            request.send(answer(line))


async def coroutine(connection: Any) -> None:
    """The same for a loop."""
    async for line in connection:
        order, _, rest = line.strip().partition(b" ")
        if order in (b"sleep", b"hang"):
            await asyncio.sleep(float(rest or HANGS_S))
        await connection.send(b"slept\n" if order == b"sleep" else answer(line))


framed = message(Lines(max_length=65_536))(lambda line: answer(line).rstrip(b"\n"))


@attrs.frozen
class Failing(Transport):
    """A transport whose `accept` raises, before it accepts: each of ``errnos`` once, or the one for ``seconds``."""

    inner: Transport
    errnos: tuple[int, ...]
    seconds: float

    @property
    def kind(self) -> Any:
        return self.inner.kind

    def listen(self) -> Any:
        return [FailingListener(each, list(self.errnos), self.seconds) for each in self.inner.listen()]


class FailingListener(Listener):
    def __init__(self, inner: Any, errnos: list[int], seconds: float) -> None:
        self._inner, self._errnos, self._seconds = inner, errnos, seconds
        self._until = 0.0
        self.kind, self.address, self.tries = inner.kind, inner.address, 0

    def accept(self) -> Any:
        if self._seconds:
            self._until = self._until or time.monotonic() + self._seconds
            if time.monotonic() < self._until:
                self.tries += 1
                raise OSError(self._errnos[0], os.strerror(self._errnos[0]))
            if self.tries:
                os.write(1, b"tries %d\n" % self.tries)
                self.tries = 0
        elif self._errnos:
            number = self._errnos.pop()
            raise OSError(number, os.strerror(number))
        return self._inner.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()

    def hold_off(self) -> None:
        self._inner.hold_off()

    def disown(self) -> None:
        self._inner.disown()

    def adopt(self) -> None:
        self._inner.adopt()


def _handler(dispatcher: str) -> Any:
    if dispatcher.startswith("asyncio"):
        return coroutine
    return framed if dispatcher.startswith("selector") or "park_idle" in dispatcher else blocking


def _verify() -> Callable[[Any], bool]:
    seen = []

    def every_second(request: Any) -> bool:
        seen.append(None)
        if len(seen) % 2:
            raise RuntimeError("no list of friends")
        return True

    return every_second


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("transport")
    parser.add_argument("--dispatcher", required=True)
    parser.add_argument("--deadlines", default="{}", type=json.loads)
    parser.add_argument("--drain", type=float, default=5.0)
    parser.add_argument("--per-peer", type=int)
    parser.add_argument("--when-full", choices=["reject", "drop"])
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--nobody", type=int, help="become nobody, who may have so many processes and threads")
    parser.add_argument("--accept-errors", default="")
    parser.add_argument("--for-seconds", type=float, default=0.0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if given.dispatcher.split("-")[0] in ("stdlib", "peer"):
        import peers

        peers.serve(given.dispatcher, given.transport, answer)
        return
    transport = names.transport(given.transport)
    if given.accept_errors:
        numbers = tuple(getattr(errno, name) for name in given.accept_errors.split(","))
        transport = Failing(transport, numbers, given.for_seconds)
    policy = {"reject": Reject(b"busy\n"), "drop": Drop()}.get(given.when_full or "")
    options = {"when_full": policy} if policy else {}
    server = Server(
        transport, names.dispatcher(given.dispatcher), _handler(given.dispatcher), drain_timeout=given.drain,
        deadlines=Deadlines(**given.deadlines), admission=Admission(max_per_peer=given.per_peer, **options),
        verify=_verify() if given.verify else None,
    )  # fmt: skip
    server.bind()
    if given.nobody is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (given.nobody, given.nobody))
        os.setuid(60_000 + os.getpid() % 5_000)
    print("ready", json.dumps(server.address), flush=True)
    report = server.serve_forever(signals=True)
    print("report", json.dumps({"clean": report.clean, "text": str(report), "left": len(report.abandoned)}), flush=True)
    os._exit(0 if report.clean else 1)  # whoever is stuck in a thread stays behind


if __name__ == "__main__":
    main()
