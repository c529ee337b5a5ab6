"""attrs validators for what a user configures.

Each raises `~tricorn.errors.ConfigurationError` with the option, the value that was given, and what is allowed.  They
look at the value only: nothing is opened and no name is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from tricorn.errors import ConfigurationError

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["Check", "flag", "host_name", "optional", "refuse_option", "seconds", "whole_number"]

Check = Callable[[Any, "Attribute[Any]", Any], None]


def refuse_option(owner: object, option: str, value: object, allowed: str) -> NoReturn:
    """Raise the `ConfigurationError` that every check raises: ``TCP(port=-1): port must be ...``."""
    raise ConfigurationError(f"{type(owner).__name__}({option}={value!r}): {option} must be {allowed}")


def whole_number(low: int, high: int | None = None, *, meaning: str = "a whole number") -> Check:
    """An `int` (no `bool`) from ``low`` to ``high``; without ``high`` there is no upper end."""
    allowed = f"{meaning} from {low} to {high}" if high is not None else f"{meaning}, {low} or more"

    def check(owner: object, option: Attribute[Any], value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
            refuse_option(owner, option.name, value, allowed)

    return check


def seconds(owner: object, option: Attribute[Any], value: object) -> None:
    """A number above 0 that is a time: no NaN, and no more than a year."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 366 * 86400:
        refuse_option(owner, option.name, value, "a number of seconds above 0")


def flag(owner: object, option: Attribute[Any], value: object) -> None:
    """True or False, and nothing that is merely true."""
    if not isinstance(value, bool):
        refuse_option(owner, option.name, value, "True or False")


def host_name(owner: object, option: Attribute[Any], value: object) -> None:
    """Text that may be a host name or an address; whether it is one shows when it is looked up."""
    if not isinstance(value, str) or "\0" in value:
        refuse_option(owner, option.name, value, 'a host name, an IPv4 or IPv6 address, or "" for every interface')


def optional(check: Check) -> Check:
    """``None``, or what ``check`` allows."""

    def check_if_given(owner: object, option: Attribute[Any], value: object) -> None:
        if value is not None:
            check(owner, option, value)

    return check_if_given
