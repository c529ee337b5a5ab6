"""Escaping for logs: nothing that a peer chooses can start a line or steer a terminal."""

from __future__ import annotations

import re
import sys
import traceback
import unicodedata
from types import CodeType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricorn.errors import RemoteError
from tricorn.observe.escape import MAX_MESSAGE, escape, escape_address, escape_error, escape_traceback

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
FORGED = "x\nERROR tricorn: forged\r\x1b[31m\x85\u2028\x00"


def caught(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("did not raise")


def raising(error: BaseException, cause: BaseException | None = None) -> Any:
    def fail() -> None:
        raise error from cause

    return fail


def unescape(text: str) -> str:
    return re.sub(r"\\x(..)|\\u(....)", lambda hit: chr(int(hit[1] or hit[2], 16)), text)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("", ""),
        ("plain, naïve, 日本語 😀", "plain, naïve, 日本語 😀"),
        ("a\nb\r\t\0", r"a\x0ab\x0d\x09\x00"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x7f\x80\x9f\xa0", "\\x7f\\x80\\x9f\xa0"),
        ("\\n", r"\x5cn"),
        ("\u2028\u2029\u202e\u2066", r"\u2028\u2029\u202e\u2066"),
        ("\ud800\udcff", r"\ud800\udcff"),
    ],
)
def test_escape(raw: str, shown: str) -> None:
    """Each class of unsafe character has its form, and text stays text."""
    assert escape(raw) == shown


@given(ANYTHING)
def test_escape_anything(raw: str) -> None:
    """The result is one encodable line without control characters, from which the text can be had back."""
    shown = escape(raw)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in shown)
    assert unescape(shown) == raw


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80"),
        ("/run/a b", "/run/a b"),
        ("/run/\x1b]0;\nforged", r"/run/\x1b]0;\x0aforged"),
        ("/run/\udcff", r"/run/\udcff"),
        (b"\0name\xff", r"@name\udcff"),
        (b"/path", "/path"),
        ("", "unnamed"),
        (None, "unnamed"),
        (17, "17"),
    ],
)
def test_escape_address(address: object, shown: str) -> None:
    """Addresses of every family read as one writes them."""
    assert escape_address(address) == shown


def test_escape_error() -> None:
    """An error is its name and its message on one line."""
    assert escape_error(ValueError(FORGED)) == "ValueError: " + escape(FORGED)
    assert escape_error(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert escape_error(RemoteError("OSError", "a\nb", "long")) == r"OSError: a\x0ab"


def test_long_message_is_cut() -> None:
    """A message that quotes a whole request does not fill the log."""
    shown = escape_error(ValueError("x" * 10_000_000))
    assert shown.endswith(f"x [and {10_000_000 - MAX_MESSAGE} characters more]")
    assert len(shown) < MAX_MESSAGE + 100


def test_error_without_a_message_to_be_had() -> None:
    """An exception whose str raises is still told."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert "Broken: <no message" in escape_error(Broken())


@pytest.mark.parametrize("depth", [1, 5])
def test_traceback_reads_as_usual(depth: int) -> None:
    """A harmless traceback looks as Python itself writes it."""

    def dive(left: int) -> None:
        if left:
            dive(left - 1)
        raise LookupError("plain")

    error = caught(lambda: dive(depth))
    assert escape_traceback(error) + "\n" == "".join(traceback.format_exception(error))


@pytest.mark.parametrize("how", ["cause", "context", "suppressed"])
def test_chains_read_as_usual(how: str) -> None:
    """Causes and contexts come first, joined as Python joins them; a suppressed one is left out."""

    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            if how == "cause":
                raise ValueError("outer") from inner
            if how == "suppressed":
                raise ValueError("outer") from None
            raise ValueError("outer")  # noqa: B904

    error = caught(fail)
    assert escape_traceback(error) + "\n" == "".join(traceback.format_exception(error))


def test_traceback_cannot_be_forged() -> None:
    """Whatever message, note, cause, member or code name an exception has, it starts no line of its own."""
    error = caught(raising(ExceptionGroup(FORGED, [ValueError(FORGED)]), cause=KeyError(FORGED)))
    error.add_note(FORGED)
    code: CodeType = compile("1/0", FORGED.rstrip("\0"), "exec").replace(co_name=FORGED)
    error.__cause__ = caught(lambda: exec(code))
    shown = escape_traceback(error)
    assert not [line for line in shown.split("\n") if line.startswith("ERROR")]
    assert set(map(escape, re.findall(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", shown))) == {r"\x0a"}


def test_remote_traceback() -> None:
    """The other process's traceback is shown with every line marked, since its breaks cannot be told apart."""
    error = RemoteError("ValueError", FORGED, f"Traceback:\n  File\nValueError: {FORGED}\n")
    lines = escape_traceback(error).split("\n")
    assert lines[:2] == ["| Traceback:", "|   File"]
    assert all(line.startswith("| ") for line in lines)
    assert escape_traceback(RemoteError("OSError", "bare")) == "OSError: bare"


def test_groups() -> None:
    """The members of a group are shown below it, to a bounded number and depth."""
    group: Exception = ValueError("innermost")
    for _ in range(30):
        group = ExceptionGroup("level", [group])
    shown = escape_traceback(group)
    assert "innermost" not in shown
    assert "  +- 1 more" in shown
    wide = escape_traceback(ExceptionGroup("wide", [ValueError(str(n)) for n in range(40)]))
    assert "  +- 15 of 40\n  | ValueError: 14\n  +- 25 more" in wide


def test_cycles_and_recursion_end() -> None:
    """A chain that bites its tail, and a stack as deep as the limit, give a bounded text."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert escape_traceback(first).count("ValueError") == 2

    def dive() -> None:
        dive()

    assert escape_traceback(caught(dive)).count("\n") < 40
    assert sys.getrecursionlimit() > 40
