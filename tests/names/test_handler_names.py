"""From text to handlers."""

from __future__ import annotations

import json
import re

import pytest

from tricorn.errors import ConfigurationError, PluginLoad, UnknownPlugin
from tricorn.names import handler


def test_a_registered_name_is_its_handler() -> None:
    """Names come from plugins."""
    assert handler("shout") is print


def test_a_reference_is_imported() -> None:
    """A module, a colon, and an attribute, which may have dots."""
    assert handler("json:loads") is json.loads
    assert handler("json.decoder:JSONDecoder.decode") is json.decoder.JSONDecoder.decode


@pytest.mark.parametrize(
    ("text", "said", "cause"),
    [
        ("tricorn_nowhere:x", "there is no module 'tricorn_nowhere'", ModuleNotFoundError),
        ("json.nowhere:x", "there is no module 'json.nowhere'", ModuleNotFoundError),
        ("json:lods", "'json' has no attribute 'lods'; did you mean 'loads'?", AttributeError),
        ("json:JSONDecoder.decod", "'JSONDecoder' has no attribute 'decod'; did you mean 'decode'?", AttributeError),
        ("handler_with_bug:x", "'handler_with_bug' fails when it is imported: ZeroDivisionError", ZeroDivisionError),
        ("handler_in_need:x", "'handler_in_need' needs a module that is missing: No module named 'tricorn", None),
        ("handler_exits:x", "module 'handler_exits' fails when it is imported: SystemExit: 3", SystemExit),
        ("json:", "'json:' is not of the form package.module:attribute", None),
        (":loads", "is not of the form package.module:attribute", None),
        ("json:loads()", "is not of the form package.module:attribute", None),
        ("../json:loads", "is not of the form package.module:attribute", None),
        ("json:__name__", "is 'json', which cannot be called", None),
    ],
)  # fmt: skip
def test_a_reference_that_leads_nowhere_says_where_it_ended(
    tmp_path, monkeypatch, text: str, said: str, cause: type[BaseException] | None
) -> None:
    """The text, what is missing, the closest there is; the original error is the cause."""
    (tmp_path / "handler_with_bug.py").write_text("1 / 0\n")
    (tmp_path / "handler_in_need.py").write_text("import tricorn_nowhere\n")
    (tmp_path / "handler_exits.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match="handler '" + re.escape(text) + "'.*" + re.escape(said)) as caught:
        handler(text)
    if cause is not None:
        assert isinstance(caught.value.__cause__, cause)


def test_an_unknown_name_tells_how_a_handler_of_ones_own_is_written() -> None:
    """A dot in place of the colon is the usual slip."""
    with pytest.raises(UnknownPlugin, match=r"(?s)no handler 'json\.loads' is installed; known: .*package\.module:"):
        handler("json.loads")


def test_options_are_refused() -> None:
    """A handler is what it is."""
    with pytest.raises(ConfigurationError, match="a handler takes none"):
        handler("shout?loud=1")


def test_a_registered_handler_that_is_gone_names_its_distribution() -> None:
    """The plugin is to be mended, not the text."""
    with pytest.raises(PluginLoad, match=r"handler 'gone' of acme 1\.0 .*there is no module 'tricorn_nowhere'"):
        handler("gone")
