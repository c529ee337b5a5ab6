"""``tricorn parts``: what is installed, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tricorn.cli.commands import root

RADIO = r"""
    import attrs
    from tricorn.contracts import Dispatcher
    from tricorn.hookspecs import hookimpl
    from tricorn.parts import DispatcherPart

    @attrs.define(eq=False)
    class Wheel(Dispatcher):
        '''Turns [bold]round[/bold] and ``round``.'''
        speed: float = attrs.field(metadata={"help": "turns a second \x1b[31m"})
        def dispatch(self, job): job.run()

    @hookimpl
    def tricorn_dispatchers():
        yield DispatcherPart("wheel", Wheel)
        yield DispatcherPart("lost", "no_such_module:Lost")
"""


def shown(*arguments: str, **environment: str) -> str:
    """The output of ``tricorn parts``."""
    result = CliRunner().invoke(root, ["parts", *arguments], env=environment, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def recorded(kind: str, name: str) -> dict[str, Any]:
    """That part in the JSON."""
    (part,) = [each for each in json.loads(shown("--json"))["parts"] if (each["kind"], each["name"]) == (kind, name)]
    return part


def test_every_built_in_part_is_there() -> None:
    """By kind and name."""
    found = {(part["kind"], part["name"]) for part in json.loads(shown("--json"))["parts"]}
    assert found >= {
        *(("transport", name) for name in ("tcp", "udp", "unix", "unixgram", "memory")),
        *(("dispatcher", name) for name in ("sync", "thread", "thread-pool", "fork", "process-pool")),
        ("handler", "echo"),
    }


def test_json_has_all_that_is_known_of_a_part() -> None:
    """Where it is from, how it is written, and its options."""
    pool = recorded("dispatcher", "thread-pool")
    assert (pool["distribution"], pool["error"], pool["written"]) == ("tricorn", None, "thread-pool")
    workers, *_ = pool["options"]
    assert workers == {
        "name": "workers",
        "allowed": "a whole number",
        "required": False,
        "default": "16",
        "help": "threads that serve",
    }


def test_elsewhere_than_on_a_terminal_each_row_is_one_plain_line() -> None:
    """So that grep finds it, however long it is."""
    lines = shown().splitlines()
    (workers,) = [line for line in lines if line.split()[:2] == ["workers", "a"] and "threads that serve" in line]
    assert workers.split() == ["workers", "a", "whole", "number", "16", "threads", "that", "serve"]
    assert [line for line in lines if not line.startswith(" ") and line.endswith("s")][0] == "Transports"
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", ["5", "30", "80", "200"])
def test_on_a_terminal_tables_keep_to_its_width(width) -> None:
    """However narrow."""
    from rich.text import Text

    output = shown(FORCE_COLOR="1", NO_COLOR="1", TERM="xterm", COLUMNS=width)
    assert max(Text.from_ansi(line).cell_len for line in output.splitlines()) <= max(int(width), 30)


def test_parts_of_others_are_shown_with_their_distribution(install) -> None:
    """What a plugin wrote is text: no markup, and nothing that steers a terminal."""
    install("acme", RADIO)
    output = shown()
    (wheel,) = [line for line in output.splitlines() if line.startswith("wheel ")]
    assert "Turns [bold]round[/bold] and round." in wheel
    assert wheel.endswith("acme 1.5")
    assert "turns a second \\x1b[31m" in output
    assert "required" in output
    assert recorded("dispatcher", "wheel")["options"][0]["default"] is None


def test_a_broken_part_is_shown_with_its_error(install) -> None:
    """The others are shown as ever."""
    install("acme", RADIO)
    (lost,) = [line for line in shown().splitlines() if line.startswith("lost ")]
    assert "broken: " in lost
    assert "there is no module 'no_such_module'" in lost
    assert "no_such_module" in recorded("dispatcher", "lost")["error"]


def test_a_plugin_that_cannot_be_loaded_is_shown_with_its_error(install) -> None:
    """In a table of its own, which is there only then."""
    assert "Plugins that could not be used" not in shown()
    install("acme", "raise RuntimeError('out of order')")
    output = shown()
    table = output.partition("Plugins that could not be used")[2]
    assert "acme 1.5" in table
    assert "RuntimeError: out of order" in table
    assert recorded("plugin", "acme")["error"].endswith("RuntimeError: out of order")
