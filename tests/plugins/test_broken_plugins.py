"""Broken plugins: named in full to those who ask for their parts, unnoticed by everybody else."""

from __future__ import annotations

import pytest

from tricorn.errors import PluginLoad, UnknownPlugin
from tricorn.parts import Corner
from tricorn.plugins import catalogue

HEAD = """
        from tricorn.contracts import Dispatcher, Kind, Listener, Transport
        from tricorn.hookspecs import hookimpl
        from tricorn.parts import DispatcherPart, HandlerPart, TransportPart
"""
ACME = r"acme 1\.0 \(entry point 'wheel'\)"


def complaint() -> str:
    """The one failure there is; the built-in parts must not have noticed."""
    (failure,) = catalogue().failures
    assert catalogue().find(Corner.TRANSPORT, "tcp")
    assert isinstance(failure.error, PluginLoad)
    return str(failure.error)


@pytest.fixture
def acme(install):
    """Installs the distribution acme 1.0, whose entry point ``wheel`` is a module of the given source."""
    return lambda source: install("acme", "[tricorn]\nwheel = acme_wheel\n", acme_wheel=HEAD + source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("        import acme_missing", "could not be loaded: ModuleNotFoundError: No module named 'acme_missing'"),
        ("        raise SystemExit(3)", "could not be loaded: SystemExit: 3"),
        ("        def nothing(): ...", "has no hook; allowed: functions marked with @hookimpl and named 'tricorn_"),
        (
            "        @hookimpl\n        def tricorn_dispatcher(): ...",
            "has a hook 'tricorn_dispatcher', which does not exist; did you mean 'tricorn_dispatchers'?",
        ),
        (
            "        def tricorn_dispatchers(): ...",
            "has a function 'tricorn_dispatchers' that is not marked with @hookimpl",
        ),
        (
            "        @hookimpl\n        def tricorn_dispatchers(server): ...",
            "could not be loaded: PluginValidationError:",
        ),
        (
            "        @hookimpl\n        def tricorn_dispatchers(): 1 / 0",
            "failed in its hook 'tricorn_dispatchers': ZeroDivisionError: division by zero",
        ),
        (
            "        @hookimpl\n        def tricorn_dispatchers(): pass",
            "failed in its hook 'tricorn_dispatchers': TypeError",
        ),
        (
            "        @hookimpl\n        def tricorn_dispatchers(): return ['wheel']",
            "gave 'wheel' from its hook 'tricorn_dispatchers'; allowed: DispatcherPart records",
        ),
        (
            "        @hookimpl\n        def tricorn_dispatchers(): yield HandlerPart('wheel', print)",
            "from its hook 'tricorn_dispatchers'; allowed: DispatcherPart records",
        ),
        (
            "        @hookimpl\n        def tricorn_dispatchers(): yield DispatcherPart('Wheel!', Dispatcher)",
            "name 'Wheel!' is not one: a small letter, then small letters, digits, - and .",
        ),
        (
            "        @hookimpl\n        def tricorn_transports(): yield TransportPart('tls+', Transport)",
            "scheme 'tls+' is not one",
        ),
    ],
)
def test_each_mistake_names_distribution_and_entry_point(acme, source: str, said: str) -> None:
    """The message says whose mistake it is, where, and what would be right."""
    acme(source)
    text = complaint()
    assert text.startswith("acme 1.0 (entry point 'wheel') ")
    assert said in text


def test_who_asks_for_the_broken_entry_point_by_name_gets_its_error(acme) -> None:
    """By custom an entry point is called like its part, so this is the part that was meant; the cause is kept."""
    acme("        import acme_missing")
    with pytest.raises(PluginLoad, match=f"no dispatcher 'wheel': {ACME} could not be loaded") as caught:
        catalogue().find(Corner.DISPATCHER, "wheel")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_an_unknown_name_mentions_what_was_not_loaded(acme) -> None:
    """The part may be one that a broken plugin would have offered."""
    acme("        import acme_missing")
    with pytest.raises(UnknownPlugin, match=f"(?s)no dispatcher 'loop'.*not loaded: {ACME}"):
        catalogue().find(Corner.DISPATCHER, "loop")


def test_a_failing_hook_leaves_the_plugins_other_hooks_alone(acme) -> None:
    """A mistake costs as little as possible; what was yielded before it counts."""
    acme(
        """
        @hookimpl
        def tricorn_dispatchers():
            yield DispatcherPart("before", Dispatcher)
            raise RuntimeError("after")

        @hookimpl
        def tricorn_handlers():
            yield HandlerPart("fine", print)
        """
    )
    assert "RuntimeError: after" in complaint()
    assert "before" in catalogue().names(Corner.DISPATCHER)
    assert catalogue().find(Corner.HANDLER, "fine").load() is print


def test_a_misspelt_hook_leaves_the_right_ones_alone(acme) -> None:
    """The complaint is kept for those who miss the part."""
    acme(
        """
        @hookimpl
        def tricorn_handler(): ...

        @hookimpl
        def tricorn_handlers():
            yield HandlerPart("fine", print)
        """
    )
    assert "'tricorn_handler'" in complaint()
    assert catalogue().find(Corner.HANDLER, "fine")


def test_a_hook_of_a_later_release_may_be_marked_optional(acme) -> None:
    """A plugin can serve several releases."""
    acme(
        """
        @hookimpl(optionalhook=True)
        def tricorn_condiments(): ...
        """
    )
    assert not catalogue().failures


def test_a_torn_entry_points_file_disturbs_nobody(install, offer_dispatchers) -> None:
    """importlib.metadata's own search would fail for everybody."""
    install("torn", "[tricorn]\nthis is no pair\n")
    offer_dispatchers("acme", "loop")
    assert complaint().startswith("torn 1.0 has an entry_points.txt that cannot be read: ")
    assert catalogue().find(Corner.DISPATCHER, "loop")


def test_an_entry_point_that_is_no_reference_is_named(install) -> None:
    """A value that cannot even be parsed is one plugin's failure."""
    install("acme", "[tricorn]\nwheel = not a module\n")
    assert complaint().startswith("acme 1.0 (entry point 'wheel') could not be loaded")


def test_metadata_without_a_version_will_do(install) -> None:
    """Half-installed distributions exist."""
    source = HEAD + "        @hookimpl\n        def tricorn_handlers(): yield HandlerPart('fine', print)"
    install("acme", "[tricorn]\nwheel = acme_wheel\n", version=None, acme_wheel=source)
    assert str(catalogue().find(Corner.HANDLER, "fine").origin).startswith("acme of unknown version")


PARTS = """
        class Deaf(Transport):
            kind = Kind.STREAM

        class Kindless(Transport):
            def listen(self): return ()

        class Idle(Dispatcher):
            pass

        @hookimpl
        def tricorn_transports():
            yield TransportPart("deaf", Deaf)
            yield TransportPart("kindless", Kindless)
            yield TransportPart("alien", dict)

        @hookimpl
        def tricorn_dispatchers():
            yield DispatcherPart("idle", Idle)
            yield DispatcherPart("instance", object())
            yield DispatcherPart("lost", "acme_wheel:Idel")
            yield DispatcherPart("gone", "acme_gone:Idle")
            yield DispatcherPart("form", "acme_wheel.Idle")

        @hookimpl
        def tricorn_handlers():
            yield HandlerPart("text", "acme_wheel:__name__")
"""


@pytest.mark.parametrize(
    ("corner", "name", "said"),
    [
        (Corner.TRANSPORT, "deaf", "does not keep its contract: .*Deaf.* does not implement 'listen'"),
        (Corner.TRANSPORT, "kindless", "does not keep its contract: .*Kindless.* has no 'kind'"),
        (Corner.TRANSPORT, "alien", r"dict.* is not a subclass of tricorn\.contracts\.Transport"),
        (Corner.DISPATCHER, "idle", "implements neither 'serve' nor 'dispatch'"),
        (Corner.DISPATCHER, "instance", r"is not a subclass of tricorn\.contracts\.Dispatcher"),
        (Corner.DISPATCHER, "lost", r"'acme_wheel' has no attribute 'Idel'; did you mean 'Idle'\?"),
        (Corner.DISPATCHER, "gone", "could not be loaded: there is no module 'acme_gone'"),
        (Corner.DISPATCHER, "form", r"'acme_wheel\.Idle' is not of the form package\.module:attribute"),
        (Corner.HANDLER, "text", "'acme_wheel' cannot be called"),
    ],
)
def test_a_part_that_breaks_its_contract_is_refused_when_asked_for(acme, corner: Corner, name: str, said: str) -> None:
    """The catalogue itself is clean: nothing was imported or looked at before somebody asked."""
    acme(PARTS)
    assert not catalogue().failures
    with pytest.raises(PluginLoad, match=f"{corner.value} '{name}' of {ACME} .*{said}"):
        catalogue().find(corner, name).load()
