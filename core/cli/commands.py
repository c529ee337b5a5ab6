"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import json
import logging
import math
import platform
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click

from tricorn.admission import MAX_CONNECTIONS, Admission, Drop, Reject, ShedOldest, Wait
from tricorn.cli import words
from tricorn.cli.explaining import show_explanation
from tricorn.cli.listing import parts_record, show_parts
from tricorn.cli.log import configure_log
from tricorn.cli.matrix import failures, fill_matrix, matrix_record, show_matrix
from tricorn.cli.output import complain, make_printable, say, silence
from tricorn.cli.serving import Session, compose
from tricorn.cli.status import BUG, INTERRUPTED, UNCLEAN, UNUSABLE
from tricorn.deadlines import DEADLINE_NAMES, Deadlines
from tricorn.errors import ConfigurationError, TricornError
from tricorn.server import DRAIN_TIMEOUT_S

__all__ = ["root", "run"]

_POLICIES = {"wait": Wait, "reject": Reject, "drop": Drop, "shed-oldest": ShedOldest}
_LEVELS = ("debug", "info", "warning", "error", "critical")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` by default) and return its exit status; errors are one line on stderr."""
    make_printable()
    try:
        status = root.main(arguments, prog_name="tricorn", standalone_mode=False)
    except click.ClickException as error:
        complain(error.format_message() + _see_help(error))
        return UNUSABLE
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        silence()
        return UNCLEAN
    except TricornError as error:
        logging.getLogger("tricorn.cli").debug("what led to it:", exc_info=error)
        complain(str(error))
        return UNUSABLE
    except Exception:
        traceback.print_exc()
        return BUG
    return status if isinstance(status, int) else 0


def _see_help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see: {context.command_path} --help)" if context is not None else ""


def _seconds(context: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise click.BadParameter(f"{value} is no length of time; allowed: seconds, 0 or more")
    return value


def _deadlines(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Deadlines:
    given: dict[str, Any] = {}
    for text in values:
        name, _, value = text.partition("=")
        if name not in DEADLINE_NAMES:
            raise click.BadParameter(
                f"{text!r} names no deadline; allowed: {', '.join(DEADLINE_NAMES)}, as in idle=300"
            )
        try:
            given[name] = None if value == "none" else float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r}: {value!r} is no number of seconds, and not 'none'") from None
    try:
        return Deadlines(**given)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


@click.group(invoke_without_command=True, help=words.ROOT)
@click.version_option(
    version("tricorn"), "--version", message=f"%(prog)s %(version)s (Python {platform.python_version()})"
)
@click.pass_context
def root(context: click.Context) -> None:
    """The group of all commands; alone it shows its help."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@root.command(help=words.SERVE, short_help="Serve until SIGTERM or Ctrl-C.")
@click.argument("transports", metavar="TRANSPORT...", nargs=-1, required=True)
@click.argument("handler")
@click.option(
    "--dispatcher", "-d", metavar="NAME[?OPTIONS]", default="thread-pool", show_default=True,
    help="Who pulls requests, and where each runs.",
)  # fmt: skip
@click.option(
    "--drain-timeout", metavar="SECONDS", type=float, default=DRAIN_TIMEOUT_S, show_default=True, callback=_seconds,
    help="How long running requests get once the server stops; then they are cut off.",
)  # fmt: skip
@click.option(
    "--deadline", "deadlines", metavar="NAME=SECONDS", multiple=True, callback=_deadlines,
    help="How long peers and handlers may take: open, first_byte, idle, read, write or request, as in idle=300; "
    "'none' for no limit. May be given several times.",
)  # fmt: skip
@click.option(
    "--max-connections", metavar="N", type=click.IntRange(min=1), default=MAX_CONNECTIONS, show_default=True,
    help="Most requests in flight in one serving process; the dispatcher may hold fewer.",
)  # fmt: skip
@click.option(
    "--max-per-peer", metavar="N", type=click.IntRange(min=1), show_default="no limit of its own",
    help="Most requests in flight of one address (IPv6: of one /64 network; Unix sockets: of one user).",
)  # fmt: skip
@click.option(
    "--when-full", type=click.Choice(sorted(_POLICIES), case_sensitive=False), default="wait", show_default=True,
    help="What becomes of those for whom there is no room: they wait in the kernel, are closed, are reset, or get the "
    "place of the oldest idle connection.",
)  # fmt: skip
@click.option(
    "--log-level", type=click.Choice(_LEVELS, case_sensitive=False), show_default="info, with --quiet error",
    help="The least that is logged, on standard error.",
)  # fmt: skip
@click.option("--user", metavar="NAME|NUMBER", help="Whom the process becomes once it listens, if started as root.")
@click.option("--group", metavar="NAME|NUMBER", help="The same for its group; by default the user's own.")
@click.option("--quiet", "-q", is_flag=True, help="Log errors only, and print no report at the end.")
@click.pass_context
def serve(
    context: click.Context, transports: tuple[str, ...], handler: str, dispatcher: str, drain_timeout: float,
    deadlines: Deadlines, max_connections: int, max_per_peer: int | None, when_full: str, log_level: str | None,
    user: str | None, group: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Compose a server from texts and serve until a signal."""
    configure_log(log_level or ("error" if quiet else "info"))
    parts = compose(transports, dispatcher, handler)
    admission = Admission(max_connections, max_per_peer, when_full=_POLICIES[when_full.lower()]())
    session = Session(
        parts,
        drain_timeout=drain_timeout,
        admission=admission,
        deadlines=deadlines,
        quiet=quiet,
        user=user,
        group=group,
    )
    context.exit(session.run())


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


@root.command(help=words.PARTS, short_help="List what is installed.")
@_json_option
def parts(as_json: bool) -> None:
    """Show what is installed."""
    if as_json:
        say(json.dumps(parts_record(), indent=2))
    else:
        show_parts()


@root.command(help=words.MATRIX, short_help="Try every transport with every dispatcher.")
@_json_option
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=5.0, show_default=True, callback=_seconds,
    help="How long a client waits for an answer; a cell that hangs is ended 5 seconds later.",
)  # fmt: skip
@click.pass_context
def matrix(context: click.Context, as_json: bool, timeout: float) -> None:
    """Try every transport with every dispatcher."""
    filled = fill_matrix(timeout)
    if as_json:
        say(json.dumps(matrix_record(filled), indent=2))
    else:
        show_matrix(filled)
    context.exit(UNCLEAN if failures(filled) else 0)


@root.command(help=words.EXPLAIN, short_help="Show what a socketserver class becomes.")
@click.argument("server", metavar="MODULE:CLASS")
@click.option("--handler", metavar="MODULE:HANDLER", help="The handler that the class is used with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a program.")
def explain(server: str, handler: str | None, as_json: bool) -> None:
    """Show what a socketserver class becomes."""
    show_explanation(server, handler, as_json=as_json)
