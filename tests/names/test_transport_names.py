"""From text to transports."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricorn.errors import ConfigurationError, UnknownPlugin
from tricorn.locations import HOST_AND_PORT, PATH
from tricorn.names import part_options, transport


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("net://127.0.0.1:9999", {"host": "127.0.0.1", "port": 9999, "backlog": 128}),
        ("NET://localhost:0", {"host": "localhost", "port": 0}),
        ("net://[::1]:514", {"host": "::1", "port": 514}),
        ("net://[fe80::1%25eth0]:514", {"host": "fe80::1%eth0"}),
        ("net://h:1?backlog=1024&reuse_port=true", {"backlog": 1024, "reuse_port": True}),
        ("net://h:1?balance=balance", {"balance": "balance"}),
        ("net://h:1?balance=on", {"balance": True}),
        ("net://h:1?", {"port": 1}),
        ("net://b%C3%BCcher:1", {"host": "bücher"}),
        ("file:/run/app.sock", {"path": "/run/app.sock", "mode": 0o600}),
        ("file:///run/app.sock", {"path": "/run/app.sock"}),
        ("file:app.sock", {"path": "app.sock"}),
        ("file:@abstract", {"path": "@abstract"}),
        ("file:/a%20b%3Fc%23d", {"path": "/a b?c#d"}),
        ("file:/a+b", {"path": "/a+b"}),
        ("file:/%FF", {"path": "/\udcff"}),
        ("file:/x?mode=0o660&owner=none", {"mode": 0o660, "owner": None}),
        ("void:", {}),
    ],
)
def test_what_is_written_is_what_is_built(text: str, expected: dict[str, object]) -> None:
    """Location and options reach the class's arguments with their types."""
    built = attrs.asdict(transport(text))
    assert {name: built[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("net", r"transport 'net': the location is missing \(written like net://127\.0\.0\.1:9999\)"),
        ("net:h:1", "two slashes are missing before the host"),
        ("net://h", "the port is missing; 0 asks for a free one"),
        ("net://h:", "the port is missing"),
        ("net://:1", r"the host is missing; 0\.0\.0\.0 and \[::\] mean every interface"),
        ("net://", "the host is missing"),
        ("net://h:65536", "the port is '65536'; allowed: a whole number from 0 to 65535"),
        ("net://h:-1", "the port is '-1'"),
        ("net://h:http", "the port is 'http'"),
        ("net://h:1٣", "the port is '1٣'"),
        ("net://h:1/path", "'/path' follows the port; nothing may"),
        ("net://h:1/", "'/' follows the port"),
        ("net://::1:80", r"ambiguous; an IPv6 address goes in brackets, such as \[::1\]"),
        ("net://[::1:80", "is not an IPv6 address in brackets"),
        ("net://[::1]80", "is not an IPv6 address in brackets and then a colon and a port"),
        ("net://[h]:80", "'h' in brackets is not an IPv6 address"),
        ("net://a b:80", "host 'a b' has a character that no host name has"),
        ("net://a%2Fb:80", "host 'a/b' has a character"),
        ("net://%FF:80", "'%FF' has bytes that are not UTF-8"),
        ("net://h%zz:80", "'%zz' is no percent code; write %25 for a percent sign"),
        ("net://h:80#top", "'#' begins a fragment, which means nothing here; write %23"),
        ("net://h:80\n", r"character 11 is '\\n'; write what cannot be printed as %XX"),
        ("net://h:80?backlog", "'backlog' is no option; options are written name=value and joined by &"),
        ("net://h:80?backlog=1&", "'' is no option"),
        ("net://h:80?backlog=1&backlog=2", "option 'backlog' is given twice"),
        ("net://h:80?port=81", "transport 'net' has no option 'port'; allowed: backlog"),
        ("net://h:80?backlog=lots", "option 'backlog' of transport 'net' is 'lots'; allowed: a whole number"),
        ("net://h:80?reuse_port=maybe", "is 'maybe'; allowed: true or false"),
        ("net://h:80?balance=maybe", "is 'maybe'; allowed: true or false, or one of balance"),
        ("file:", "the path is missing"),
        ("file://host/x", "a path has no host; write one slash, or three"),
        ("file:%00x", "a path holds no NUL character; an abstract name begins with @"),
        ("void:x", "'x' is a location, and this transport has none"),
        ("void:?x=1", "transport 'void' has no option 'x'; it takes none"),
    ],
)
def test_a_wrong_text_is_told_what_is_wrong_and_what_is_allowed(text: str, said: str) -> None:
    """Every slip is a ConfigurationError, and so a ValueError, before anything is opened."""
    with pytest.raises(ConfigurationError, match=said):
        transport(text)


def test_a_password_is_not_repeated() -> None:
    """Messages end in logs."""
    with pytest.raises(ConfigurationError, match="a user name or password means nothing here") as caught:
        transport("net://me:xy/zz%23y@h:1")
    assert "xy" not in str(caught.value)
    assert "zz" not in str(caught.value)


@pytest.mark.parametrize("text", ["nte://h:1", "127.0.0.1:80", "", ":memory:"])
def test_an_unknown_scheme_lists_the_known(text: str) -> None:
    """The form of a transport's text is told as well."""
    with pytest.raises(UnknownPlugin, match=r"(?s)known: 'file', 'net', 'void'.*scheme:location\?option=value"):
        transport(text)


def test_a_default_is_shown_as_it_is_usually_written() -> None:
    """Permission bits are octal, and can be given like that."""
    (mode, _) = part_options(type(transport("file:/x")))[1:]
    assert str(mode) == "mode (a whole number; default 0o600)"
    assert mode.help == "permission bits"


def test_a_wrapper_that_is_not_installed_is_named() -> None:
    """``a+b`` is a wrapper around a transport."""
    with pytest.raises(
        UnknownPlugin, match=r"no transport 'tls\+net': .*no wrapper 'tls' is installed; known: 'crate'"
    ):
        transport("tls+net://h:1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "crate+net://h:1?wood=oak&backlog=5&marks=a,b",
            {"wood": "oak", "marks": ("a", "b"), "inner": {"host": "h", "port": 1, "backlog": 5}},
        ),
        ("crate+void:?marks=", {"wood": "fir", "marks": (), "inner": {}}),
        ("FOIL+Net://h:1", {"mode": 0, "content": {"host": "h"}}),
        (
            "foil+crate+file:/x?crate.wood=oak&owner=me",
            {"content": {"wood": "oak", "marks": (), "inner": {"path": "/x", "mode": 0o600, "owner": "me"}}},
        ),
        ("foil+file:/x?foil.mode=1&file.mode=2", {"mode": 1, "content": {"mode": 2}}),
    ],
)
def test_wrappers_are_written_from_the_outermost_on(text: str, expected: dict[str, Any]) -> None:
    """The options of all layers stand in one query, told apart by their names, or with the layer's name in front."""
    found = attrs.asdict(transport(text))
    for name, value in expected.items():
        assert {**found[name], **value} == found[name] if isinstance(value, dict) else found[name] == value


def test_an_option_that_both_have_is_written_with_its_owner() -> None:
    """Never guessed."""
    with pytest.raises(
        ConfigurationError, match=r"'mode' of transport 'foil\+file' is ambiguous; write 'foil.mode' or"
    ):
        transport("foil+file:/x?mode=1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("crate+net://h:1?wod=oak", r"transport 'crate\+net' has no option 'wod'; .*did you mean 'wood'\?"),
        ("crate+net://h:1?inner=x", r"has no option 'inner'"),
        ("crate+net://h:1?crate.host=x", r"wrapper 'crate' has no option 'host'"),
        ("crate+net://h:1?wood=sand", r"wrapper 'crate': sand is no wood"),
        ("crate+crate+net://h:1", r"has 'crate' twice"),
        ("crate+net", r"the location is missing"),
        ("crate+", r"no transport '' is installed"),
        ("+net://h:1", r"no wrapper '' is installed"),
        ("net+crate://h:1", r"no wrapper 'net' is installed.*'net' is a transport"),
        ("crate://h:1", r"no transport 'crate' is installed.*'crate' is a wrapper"),
    ],
)
def test_what_is_wrong_with_a_wrapped_transport_is_told(text: str, said: str) -> None:
    """With the layer it is in."""
    with pytest.raises(ConfigurationError, match=f"(?s){said}"):
        transport(text)


def test_a_password_is_not_repeated_in_messages() -> None:
    """It would end up in a log."""
    with pytest.raises(ConfigurationError) as caught:
        transport("crate+net://h?wood=oak&password=hunter2")
    assert "hunter2" not in str(caught.value)
    assert "password=..." in str(caught.value)


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(0))
def test_every_address_comes_back(address, port: int, backlog: int) -> None:
    """What is written for an IP address, a port and a number is read as these."""
    host = f"[{address}]" if address.version == 6 else str(address)
    built = transport(f"net://{host}:{port}?backlog={backlog}")
    assert (built.host, built.port, built.backlog) == (str(address), port, backlog)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), st.text())
def test_every_path_and_text_comes_back(path: str, owner: str) -> None:
    """Percent-encoding carries any file name and any value."""
    built = transport(f"file:{quote(path, safe='')}?owner={quote(owner, safe='', errors='surrogatepass')}")
    assert built.path == path
    assert built.owner == (None if owner.lower() == "none" else owner) or not owner.isascii()


@given(st.text())
def test_no_text_brings_down_a_locator(text: str) -> None:
    """Whatever is written: arguments, or a ValueError, and never another error."""
    for locator in (HOST_AND_PORT, PATH):
        for location in (text, f"//{text}", f"//{text}:1"):
            try:
                values = locator.read(location)
            except ValueError:
                continue
            assert len(values) == len(locator.arguments)
