# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from koren_faas import config, show
from koren_faas.cli.completion import complete_function, complete_region
from koren_faas.durations import seconds_of
from koren_faas.errors import FaasError, FunctionError
from koren_faas.held import Decision


def seconds(ctx: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Callback of an option that is a duration."""
    try:
        return None if value is None else seconds_of("it", value)
    except FunctionError as error:
        raise click.BadParameter(str(error)) from error


DELAY = click.option(
    "--delay",
    "delay_s",
    metavar="DURATION",
    callback=seconds,
    help="How long each event of the topic waits before the function gets it, such as 30s, 5m, 2h or 1d; 7d at most, "
    "0s: no delay.",
)
REGION = click.option(
    "--region",
    "regions",
    multiple=True,
    shell_complete=complete_region,
    help="Only this region; may be given more than once.",
)
FUNCTION = click.argument("name", shell_complete=complete_function)
FUNCTIONS = click.argument("names", nargs=-1, shell_complete=complete_function)
OUTPUT = click.option(
    "-o", "--out", type=click.Choice(["json", "yaml"]), help="Output format instead of a table."
)
LIST_OUTPUT = click.option(
    "-o",
    "--out",
    "--output",
    type=click.Choice(["json", "yaml", "name", "wide"]),
    help="Output format: name prints what other commands are given, wide a table with all it has, however wide.",
)
LIMIT = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Show at most this many of each region, the oldest first.",
)
ALL = click.option("--all", "everything", is_flag=True, help="Show all, without a limit.")
DRYRUN = click.option(
    "--dryrun", is_flag=True, help="Change nothing; print what would change as a diff."
)
DIFFERS = 3
"""Exit code of `faas diff` when something would change."""
CONFIG = click.option(
    "-c",
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=config.NAME,
    show_default=True,
    help="File that describes the functions.",
)
ENVIRONMENT = click.option(
    "--environment", metavar="NAME", help="Environment of the file, which changes some values."
)


def example(*commands: str) -> str:
    """The end of a command's help: how it is typed."""
    return "\n".join(["\b", "Example:", *(f"  $ {command}" for command in commands)])


class Group(click.Group):
    """Tells the package's errors as click tells its own: one message, exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FaasError as error:
            raise click.ClickException(show.printable(str(error), lines=True)) from error


def say(line: str) -> None:
    """Tell people, not programs: it is no part of the output."""
    click.echo(show.printable(line, lines=True), err=True)


def tell_list(
    records: Sequence[Mapping[str, Any]],
    out: str | None,
    table: Callable[[bool], str],
    *,
    name: str = "name",
) -> None:
    """Print a list in the format that is asked for.

    Args:
        table: the list as a table, in full if its argument is true.
        name: key of what other commands are given of a record.
    """
    if out in ("json", "yaml"):
        click.echo(show.plain(records, out))
    elif out == "name":
        for one in dict.fromkeys(str(record[name]) for record in records):
            click.echo(show.printable(one))
    else:
        click.echo(table(out == "wide"))


def dicts(things: Sequence[show.Plain]) -> list[dict[str, Any]]:
    """Things as records."""
    return [one.as_dict() for one in things]


def tell_decisions(done: Sequence[Decision], what: str) -> None:
    """Tell which held events were decided upon, and how."""
    for one in done:
        count = len(one.events)
        of = f" of {one.subject}" if one.subject else ""
        say(f"{one.region}: {count} held event{'s' if count != 1 else ''}{of} {what}")


def tell_more(regions: Sequence[str], limit: int) -> None:
    """Tell of regions of which only a part is shown."""
    for region in regions:
        say(f"{region} has more than {limit}: show them with --limit or --all")


def warn(unreachable: Mapping[str, FaasError]) -> None:
    """Tell of regions that did not answer, and end with an error code if there are any."""
    for error in unreachable.values():
        say(f"Warning: {error}")
    if unreachable:
        raise click.exceptions.Exit(1)
