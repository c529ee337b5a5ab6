"""Jobs that go to another process one by one: what a loop over there relies on."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import pytest

from tricorn.connection import Connection
from tricorn.handover import make_channel, receive_request, send_request
from tricorn.peer_socket import PeerSocket


def test_receiving_never_waits(nothing_left_behind: None) -> None:
    """Where nothing is there it says so, though the channel itself blocks."""
    ours, theirs = make_channel()
    with ours, theirs:
        assert theirs.getblocking()
        with pytest.raises(BlockingIOError):
            receive_request(theirs)
        ours.close()
        assert receive_request(theirs) is None


def test_programs_that_a_handler_starts_inherit_no_connection(nothing_left_behind: None) -> None:
    """The descriptor arrives close-on-exec."""
    with ExitStack() as opened:
        ours, theirs, _, far = map(opened.enter_context, (*make_channel(), *socket.socketpair()))
        sent = Connection(PeerSocket(socket.AF_UNIX, socket.SOCK_STREAM, 0, far.detach()), "")
        opened.callback(sent.close)
        send_request(ours, 7, sent)
        received = receive_request(theirs)
        assert received is not None
        number, request = received
        assert isinstance(request, Connection)
        opened.callback(request.close)
        assert number == 7
        assert not os.get_inheritable(request.socket.fileno())
