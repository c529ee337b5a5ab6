"""From text to dispatchers, and from option text to values."""

from __future__ import annotations

import contextlib
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricorn.contracts import Dispatcher
from tricorn.errors import ConfigurationError, UnknownPlugin
from tricorn.names import dispatcher, part_options
from tricorn.notation import split


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("workers=32", 32),
        ("workers=0x20", 32),
        ("workers=0b11", 3),
        ("workers=1_000", 1000),
        ("timeout=2.5", 2.5),
        ("timeout=1e-3", 0.001),
        ("timeout=3", 3.0),
        ("timeout=none", None),
        ("name=a%26b%3Dc", "a&b=c"),
        ("name=", ""),
        ("name=a+b=c", "a+b=c"),
        ("file=/tmp/x", Path("/tmp/x")),
        ("folder=/tmp/x", "/tmp/x"),
        ("level=2", 2),
        ("alias=5", 5),
        ("hook=none", None),
    ],
)
def test_an_option_becomes_a_value_of_its_type(option: str, value: object) -> None:
    """The annotation says what is meant, also where part of it exists for type checkers only."""
    built = dispatcher(f"many?{option}")
    name = option.partition("=")[0]
    found = getattr(built, "_alias" if name == "alias" else name)
    assert found == value
    assert type(found) is type(value)


def test_an_enum_is_written_by_its_value() -> None:
    """Members are what the class has, not copies."""
    colour = dispatcher("many?colour=deep-blue").colour
    assert isinstance(colour, Enum)
    assert colour.name == "DEEP_BLUE"


def test_a_part_inside_a_part_is_written_percent_encoded() -> None:
    """To any depth, each level encoded once more."""
    inner = "many?workers=8&inner=" + quote("many?workers=9", safe="")
    built = dispatcher("many?inner=" + quote(inner, safe="") + "&source=" + quote("net://h:1?backlog=7", safe=""))
    assert (built.inner.workers, built.inner.inner.workers) == (8, 9)
    assert built.source.backlog == 7
    assert type(dispatcher("many?inner=one").inner).__name__ == "One"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("many?workers=many", "option 'workers' of dispatcher 'many' is 'many'; allowed: a whole number"),
        ("many?workers=010", "is '010'; allowed: a whole number"),
        ("many?workers=1.5", "is '1.5'; allowed: a whole number"),
        ("many?workers=%205", "is ' 5'; allowed: a whole number"),
        ("many?workers=1__0", "is '1__0'; allowed"),
        ("many?workers=", "is ''; allowed: a whole number"),
        ("many?timeout=inf", "is 'inf'; allowed: a number, or none"),
        ("many?timeout=1e999", "is '1e999'; allowed: a number, or none"),
        ("many?timeout=.", "allowed: a number, or none"),
        ("many?colour=green", "is 'green'; allowed: one of red, deep-blue"),
        ("many?level=3", "is '3'; allowed: one of 1, 2"),
        ("many?hook=print", "is 'print'; allowed: none"),
        ("many?peers=a", "allowed: no text: it takes an object, so build the part in Python"),
        ("many?workers=0", "^dispatcher 'many': workers must be at least 1, not 0$"),
        ("many?hidden=1", "has no option 'hidden'"),
        ("many?_alias=1", r"has no option '_alias'; .* did you mean 'alias'\?"),
        ("many?worker=1", r"has no option 'worker'; allowed: workers \(a whole number; default 4\), .*'workers'\?"),
        ("one?x=1", "dispatcher 'one' has no option 'x'; it takes none"),
        ("plain", "dispatcher 'plain' needs option 'size': a whole number"),
        ("plain?size=1&label=type", "^dispatcher 'plain': no such type$"),
        ("strict?share=2", "dispatcher 'strict': 'share' must be <= 1: 2.0"),
        ("strict?side=x", r"dispatcher 'strict': 'side' must be in \['l', 'r'\] \(got 'x'\)$"),
        ("many#x", "dispatcher 'many#x': '#' begins a fragment"),
        ("many?inner=many%3Fworkers%3D0", "in option 'inner' of dispatcher 'many': dispatcher 'many': workers must be"),
        ("many?source=net", "in option 'source' of dispatcher 'many': transport 'net': the location is missing"),
    ],
)
def test_a_wrong_option_is_told_what_is_allowed(text: str, said: str) -> None:
    """Option, value and what would do, in one sentence."""
    with pytest.raises(ConfigurationError, match=said):
        dispatcher(text)


def test_an_unknown_part_inside_a_part_stays_an_unknown_plugin() -> None:
    """The kind of the error survives, the place is added."""
    with pytest.raises(UnknownPlugin, match="in option 'inner' of dispatcher 'many': no dispatcher 'onne'"):
        dispatcher("many?inner=onne")


def test_an_ordinary_class_has_its_constructors_options() -> None:
    """attrs is a convenience, not a condition; what has no annotation is text."""
    built = dispatcher("plain?size=3&label=5")
    assert (built.size, built.label) == (3, "5")


def test_options_tell_type_default_and_need() -> None:
    """What ``tricorn parts`` and the error messages show."""
    options = {option.name: str(option) for option in part_options(type(dispatcher("many")))}
    assert options["timeout"] == "timeout (a number, or none; default none)"
    assert options["colour"] == "colour (one of red, deep-blue; default red)"
    assert options["inner"] == "inner (the text of a dispatcher; default One())"
    assert options["file"] == "file (a path; default .)"
    assert "hidden" not in options
    assert str(part_options(type(dispatcher("plain?size=1")))[0]) == "size (a whole number; required)"


def escaped(text: str) -> str:
    """As an option's value or name is written."""
    return quote(text, safe="", errors="surrogatepass")


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
                       st.text(st.characters(exclude_categories=["Cs"]))))  # fmt: skip
def test_every_set_of_options_comes_back(options: dict[str, str]) -> None:
    """Writing options and taking them apart again loses nothing, the order included."""
    query = "&".join(f"{escaped(name)}={escaped(value)}" for name, value in options.items())
    assert list(split(f"part?{query}").given.items()) == list(options.items())


@given(st.text())
def test_no_text_brings_a_name_down(text: str) -> None:
    """A dispatcher, or a ConfigurationError."""
    for written in (text, f"many?{text}", f"many?workers={text}", f"many?timeout={text}", f"many?inner={text}"):
        with contextlib.suppress(ConfigurationError):
            assert isinstance(dispatcher(written), Dispatcher)


@given(st.integers(1), st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_comes_back(workers: int, timeout: float) -> None:
    """As Python writes it, it is read."""
    built = dispatcher(f"many?workers={workers}&timeout={timeout!r}")
    assert (built.workers, built.timeout) == (workers, timeout)
