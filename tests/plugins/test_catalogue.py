"""What is found, in which order, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tricorn.errors import PluginConflict, UnknownPlugin
from tricorn.parts import Corner
from tricorn.plugins import catalogue, reset


def run_python(code: str) -> str:
    """The standard output of a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_the_built_in_parts_come_through_entry_points_of_this_distribution() -> None:
    """Nothing in the core names them: they are offered by the distribution ``tricorn``, like a stranger's."""
    found = catalogue()
    assert found.names(Corner.TRANSPORT) == (
        "inherited", "memory", "table+postgresql", "table+sqlite", "tcp", "udp", "unix", "unixgram",
    )  # fmt: skip
    assert {"fork", "process-pool"} <= set(found.names(Corner.DISPATCHER))
    assert "echo" in found.names(Corner.HANDLER)
    assert found.find(Corner.TRANSPORT, "tcp").origin.distribution == "tricorn"


def test_listing_names_imports_no_part() -> None:
    """Targets that are text are imported for whoever asks for them, and not to be listed."""
    code = (
        "import sys; from tricorn.plugins import catalogue; from tricorn.parts import Corner;"
        "[catalogue().names(corner) for corner in Corner];"
        "print(sorted(m for m in sys.modules if m.startswith('tricorn.') and m.count('.') == 2 and '_plugin' not in m))"
    )
    assert run_python(code) == "[]"


def test_passing_objects_imports_no_pluggy() -> None:
    """The plugin machinery is for those who ask by name."""
    code = "import sys, tricorn.names, tricorn.parts, tricorn.contracts; print('pluggy' in sys.modules)"
    assert run_python(code) == "False"


def test_a_strangers_part_is_found_and_loaded(offer_dispatchers) -> None:
    """A distribution with an entry point and a hook is all it takes."""
    offer_dispatchers("acme", "loop")
    offer = catalogue().find(Corner.DISPATCHER, "loop")
    assert str(offer) == "dispatcher 'loop' of acme 1.0 (entry point 'main')"
    assert offer.load().__name__ == "Loop"


def test_what_was_found_is_kept_until_reset(offer_dispatchers) -> None:
    """One look-up serves a whole process; tests can ask for another."""
    first = catalogue()
    assert catalogue() is first
    reset()
    assert catalogue() == first
    assert catalogue() is not first


def test_the_order_does_not_depend_on_the_path(offer_dispatchers) -> None:
    """Offers are ordered by distribution and entry point, whichever comes first on ``sys.path``."""
    offer_dispatchers("beta", "b1", "b2")
    offer_dispatchers("alpha", "a1")
    offer_dispatchers("gamma", "c1")
    strangers = [offer.part.name for offer in catalogue().offers if offer.origin.distribution != "tricorn"]
    assert strangers == ["a1", "b1", "b2", "c1"]


def test_two_offers_of_one_name_are_a_conflict_for_those_who_ask(offer_dispatchers) -> None:
    """The error names both distributions; the other parts of both go on working."""
    offer_dispatchers("acme", "loop", "spiral")
    offer_dispatchers("bolt", "loop", version="2.5")
    with pytest.raises(PluginConflict, match=r"'loop' is offered by acme 1\.0 .*'main'.* and bolt 2\.5 .*'main'"):
        catalogue().find(Corner.DISPATCHER, "loop")
    assert catalogue().find(Corner.DISPATCHER, "spiral").origin.distribution == "acme"
    assert not catalogue().failures


def test_a_copy_further_down_the_path_is_shadowed(offer_dispatchers) -> None:
    """A distribution installed twice is the one that Python itself would import, and no conflict."""
    offer_dispatchers("acme", "loop", version="1.0")
    offer_dispatchers("acme", "loop", version="2.0")
    assert catalogue().find(Corner.DISPATCHER, "loop").origin.version == "2.0"


def test_an_unknown_name_lists_the_known_and_the_closest(offer_dispatchers) -> None:
    """A slip of the keyboard is answered with what was meant."""
    offer_dispatchers("acme", "loop")
    with pytest.raises(UnknownPlugin, match=r"no dispatcher 'lop'.*known: .*'loop'.*did you mean 'loop'\?"):
        catalogue().find(Corner.DISPATCHER, "lop")


def test_a_name_of_another_corner_is_recognized() -> None:
    """Two arguments in the wrong order are told so."""
    with pytest.raises(UnknownPlugin, match="'tcp' is a transport"):
        catalogue().find(Corner.DISPATCHER, "tcp")


def test_one_name_in_two_corners_is_no_conflict(install) -> None:
    """Each corner has names of its own."""
    source = """
        from tricorn.hookspecs import hookimpl
        from tricorn.parts import HandlerPart

        @hookimpl
        def tricorn_handlers():
            return [HandlerPart("tcp", print)]
        """
    install("acme", "[tricorn]\nx = acme_tcp\n", acme_tcp=source)
    assert catalogue().find(Corner.HANDLER, "tcp").load() is print
    assert catalogue().find(Corner.TRANSPORT, "tcp").origin.distribution == "tricorn"
