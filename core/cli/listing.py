"""What ``tricorn parts`` shows."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tricorn.cli.output import Cell, show_table
from tricorn.installed import InstalledPart, installed_parts
from tricorn.options import Option

__all__ = ["parts_record", "show_parts"]

_HEADER = ("Name", "Option", "Allowed", "Default", "Meaning", "From")


def parts_record() -> dict[str, Any]:
    """Everything installed, as JSON has it; an option's default is written as one would give it, ``null`` if none."""
    return {"tricorn": version("tricorn"), "parts": [_part_record(part) for part in installed_parts()]}


def _part_record(part: InstalledPart) -> dict[str, Any]:
    return {
        "kind": part.kind,
        "name": part.name,
        "written": part.written,
        "distribution": part.distribution,
        "version": part.version,
        "entry_point": part.origin.entry_point,
        "summary": part.summary,
        "error": part.error or None,
        "options": [_option_record(option) for option in part.options],
    }


def _option_record(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "allowed": option.allowed,
        "required": option.required,
        "default": None if option.required else option.shown_default,
        "help": option.help,
    }


def show_parts() -> None:
    """Print a table for each corner, and one for broken plugins if there are any."""
    parts = installed_parts()
    for kind in ("transport", "wrapper", "dispatcher", "handler"):
        rows = [row for part in parts if part.kind == kind for row in _rows(part)]
        show_table(f"{kind.capitalize()}s", _HEADER, rows)
    if broken := [part for part in parts if part.kind == "plugin"]:
        rows = [[(str(part.origin), ""), (part.error, "red")] for part in broken]
        show_table("Plugins that could not be used", ("Plugin", "Error"), rows)


def _rows(part: InstalledPart) -> list[list[Cell]]:
    source = (f"{part.distribution} {part.version}", "")
    if part.error:
        return [[(part.name, "bold"), ("", ""), ("", ""), ("", ""), (f"broken: {part.error}", "red"), source]]
    written = f" Written {part.written}" if part.written != part.name else ""
    meaning = part.summary.replace("`", "") + written  # a docstring's, so it has markup
    first = [(part.name, "bold"), ("", ""), ("", ""), ("", ""), (meaning, ""), source]
    return [first, *(_option_row(option) for option in part.options)]


def _option_row(option: Option) -> list[Cell]:
    default = "required" if option.required else option.shown_default
    return [("", ""), (option.name, "cyan"), (option.allowed, ""), (default, ""), (option.help, ""), ("", "")]
