"""The laws of every transport: functions whose docstring is the law, and which raise `AssertionError` if it is broken.

Those of streams and of datagrams alone are in `tricorn.testing.stream_laws` and `tricorn.testing.datagram_laws`.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from typing import Any

from tricorn.contracts import Kind, Listener, Transport
from tricorn.errors import ListenError
from tricorn.server import Server
from tricorn.testing.bounds import expect
from tricorn.testing.leaks import Belongings, no_leaks
from tricorn.testing.stand import Stand

__all__ = ["LAWS"]


def building_opens_nothing(stand: Stand) -> None:
    """building a transport opens nothing"""
    with no_leaks():
        before = Belongings.now()
        transport = stand.factory()
        opened = Belongings.now().beyond(before)
        expect(not opened, f"building it opened {opened}")
        expect(isinstance(transport, Transport), f"{transport!r} is no Transport")
        expect(isinstance(transport.kind, Kind), f"its kind is {transport.kind!r}")


def listening_gives_listeners(stand: Stand) -> None:
    """listen() returns at least one bound listener, of the transport's kind, with an address"""
    with stand.open() as counter:
        expect(counter.listeners, "listen() returned no listener")
        for listener in counter.listeners:
            expect(isinstance(listener, Listener), f"{listener!r} is no Listener")
            expect(listener.kind is stand.kind, f"the listener's kind is {listener.kind}, the transport's {stand.kind}")
            expect(listener.address is not None, "the listener has no address")


def descriptors_are_private_and_do_not_block(stand: Stand) -> None:
    """a listener's descriptor is open, non-blocking and close-on-exec"""
    with stand.open() as counter:
        for listener in counter.listeners:
            fd = listener.fileno()
            expect(fd >= 0, f"fileno() of an open listener is {fd}")
            expect(not os.get_inheritable(fd), "the descriptor is inherited by programs that are started")
            expect(not os.get_blocking(fd), "the descriptor blocks")


def accept_never_blocks(stand: Stand) -> None:
    """accept() raises BlockingIOError where nothing is pending, and fileno() is readable where something is"""
    with stand.open() as counter:
        counter.check_idle("before anybody came")
        client = counter.client()
        if stand.kind is Kind.DATAGRAM:
            client.send(b"packet")
        counter.accept()
        counter.check_idle("after the only request was accepted")


def closing_leaves_nothing(stand: Stand) -> None:
    """close() gives everything back, and one can listen again at once"""
    with stand.open() as counter:
        for listener in counter.listeners:
            listener.close()
        counter.listeners[:] = counter.transport.listen()
        client = counter.client()
        if stand.kind is Kind.DATAGRAM:
            client.send(b"packet")
        counter.accept()


def listening_twice_works_or_says_why(stand: Stand) -> None:
    """a second listen() at the same time works, or raises ListenError with errno and address and leaves nothing"""
    with stand.open() as counter:
        before = Belongings.now()
        try:
            second = counter.transport.listen()
        except ListenError as error:
            opened = Belongings.now().beyond(before)
            expect(not opened, f"the failed listen() left {opened}")
            expect(error.errno is not None, f"the ListenError has no errno: {error}")
            expect(error.address is not None, f"the ListenError has no address: {error}")
        else:
            counter.listeners.extend(second)


def disowning_leaves_it_to_others(stand: Stand) -> None:
    """disown() closes this process's copy only: another process that has the listener goes on"""
    transport = stand.factory()
    if transport.in_process:
        return
    with stand.open() as counter:
        listener, address = counter.listener, counter.listener.address
        copy = os.dup(listener.fileno())  # as if another process had it
        try:
            listener.disown()
            expect(listener.fileno() < 0, "fileno() after disown() is still a descriptor")
            client = counter.connect(counter.transport, address)
            client.close()
        except OSError as error:
            raise AssertionError(f"after disown() in one process nobody could connect: {error}") from error
        finally:
            os.close(copy)
            with suppress(ListenError):
                counter.listeners[:] = counter.transport.listen()  # which may take over a file that was left for this


def it_serves(stand: Stand) -> None:
    """a server on it answers, and leaves nothing behind"""
    from tricorn.strategies import ThreadPool

    def handle(request: Any) -> None:
        if stand.kind is Kind.STREAM:
            request.send(request.recv(100))
        elif stand.kind is Kind.DATAGRAM:
            request.reply(request.data)

    with no_leaks():
        transport = stand.factory()
        with Server(transport, ThreadPool(2), handle, log=False) as server:
            server.start()
            with closing(stand.connect(transport, server.address)) as client:
                if stand.kind is not Kind.ITEM:
                    client.send(b"hello")
                    heard = client.recv(100)
                    expect(heard == b"hello", f"a client that said b'hello' got {heard!r}")
        assert server.report is not None
        expect(server.report.clean, f"the server did not end cleanly: {server.report}")


LAWS: tuple[Any, ...] = (
    building_opens_nothing,
    listening_gives_listeners,
    descriptors_are_private_and_do_not_block,
    accept_never_blocks,
    closing_leaves_nothing,
    listening_twice_works_or_says_why,
    disowning_leaves_it_to_others,
    it_serves,
)
