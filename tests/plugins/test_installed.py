"""The listing behind ``tricorn parts``."""

from __future__ import annotations

from tricorn.installed import InstalledPart, installed_parts


def listed(name: str) -> list[InstalledPart]:
    """The records of that name."""
    return [part for part in installed_parts() if part.name == name]


SOURCE = """
    import attrs
    from tricorn.contracts import Dispatcher, Kind, Transport
    from tricorn.hookspecs import hookimpl
    from tricorn.locations import HOST_AND_PORT
    from tricorn.parts import DispatcherPart, TransportPart

    @attrs.frozen
    class Radio(Transport):
        '''Waves
        in the air.  All of them.

        More about them.
        '''
        kind = Kind.DATAGRAM
        host: str
        port: int
        band: float = attrs.field(default=2.4, metadata={"help": "gigahertz"})
        def listen(self): return ()

    @hookimpl
    def tricorn_transports():
        yield TransportPart("radio", Radio, HOST_AND_PORT)

    @hookimpl
    def tricorn_dispatchers():
        yield DispatcherPart("lost", "acme_nowhere:Lost")
"""


def test_a_part_is_listed_with_all_that_is_known_of_it(install) -> None:
    """Corner, text, distribution, the first line of its docstring, and its options; the location is no option."""
    install("acme", "[tricorn]\nx = acme_radio\n", version="3.1", acme_radio=SOURCE)
    (radio,) = listed("radio")
    assert (radio.kind, radio.written, radio.distribution, radio.version, radio.error) == (
        "transport", "radio://127.0.0.1:9999", "acme", "3.1", "",
    )  # fmt: skip
    assert radio.summary == "Waves in the air."
    (band,) = radio.options
    assert (band.name, band.allowed, band.shown_default, band.help) == ("band", "a number", "2.4", "gigahertz")
    assert str(band) == "band (a number; default 2.4)"


def test_a_broken_part_is_listed_with_its_error(install) -> None:
    """A listing never fails for one part."""
    install("acme", "[tricorn]\nx = acme_radio\n", acme_radio=SOURCE)
    (lost,) = listed("lost")
    assert "there is no module 'acme_nowhere'" in lost.error
    assert lost.options == ()


def test_a_broken_plugin_is_listed_last(install) -> None:
    """It has no part to be listed under."""
    install("acme", "[tricorn]\nwheel = acme_wheel\n", acme_wheel="import acme_missing")
    last = installed_parts()[-1]
    assert (last.kind, last.name, last.distribution) == ("plugin", "wheel", "acme")
    assert "acme_missing" in last.error


def test_both_sides_of_a_conflict_are_listed_as_such(offer_dispatchers) -> None:
    """Whoever lists the parts sees what would happen on use."""
    offer_dispatchers("acme", "loop")
    offer_dispatchers("bolt", "loop")
    assert [part.distribution for part in listed("loop")] == ["acme", "bolt"]
    assert all("is offered by acme" in part.error for part in listed("loop"))


def test_every_built_in_part_works_and_says_what_it_is() -> None:
    """Each can be loaded, has a summary, and explains each of its options."""
    parts = [part for part in installed_parts() if part.distribution == "tricorn"]
    assert [part.error for part in parts if part.error] == []
    assert all(part.summary for part in parts)
    explained = [part for part in parts if part.name != "route"]  # which is built in Python: its docstring has them
    assert [(part.name, option.name) for part in explained for option in part.options if not option.help] == []
