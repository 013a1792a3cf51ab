# SPDX-License-Identifier: Apache-2.0
"""`faas dlq`: events that functions could not handle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from koren_faas import dead_letters as letters
from koren_faas import show
from koren_faas.cli.common import (
    ALL,
    LIMIT,
    LIST_OUTPUT,
    OUTPUT,
    REGION,
    Group,
    dicts,
    example,
    say,
    tell_list,
    tell_more,
    warn,
)
from koren_faas.cli.completion import complete_function
from koren_faas.site import Site
from koren_faas.terminal import patience

F = TypeVar("F", bound=Callable[..., Any])


def _which(command: F) -> F:
    for option in (
        REGION,
        click.option("--all", "everything", is_flag=True, help="All dead letters."),
        click.option("--function", metavar="NAME", shell_complete=complete_function,
                     help="All dead letters of this function."),
        click.argument("ids", nargs=-1),
    ):
        command = option(command)
    return command


def _demand(ids: Sequence[str], function: str | None, everything: bool) -> None:
    if bool(ids) + bool(function) + everything != 1:
        raise click.UsageError("Say which: IDs, --function NAME, or --all.")


@click.group(cls=Group)
def dlq() -> None:
    """Manage dead letters. These are events that a function gave up on, and invalid messages."""


@click.command("list", epilog=example("faas dlq list --function hello"))
@click.option(
    "--function", metavar="NAME", shell_complete=complete_function, help="Only those of this function."
)
@LIMIT
@ALL
@REGION
@LIST_OUTPUT
@click.pass_obj
def list_letters(
    site_dir: Path,
    function: str | None,
    limit: int,
    everything: bool,
    regions: tuple[str, ...],
    out: str | None,
) -> None:
    """List dead letters. Without --region, of all regions."""
    most = None if everything else limit
    with patience("the regions"):
        found = letters.dead_letters(Site.load(site_dir), function, regions, limit=most)
    tell_list(
        dicts(found.letters),
        out,
        lambda wide: show.dead_letters(found.letters, wide=wide),
        name="id",
    )
    tell_more(found.more, limit)
    warn(found.unreachable)


dlq.add_command(list_letters)
dlq.add_command(list_letters, "ls")


@dlq.command("show", epilog=example("faas dlq show ID"))
@click.argument("id")
@REGION
@OUTPUT
@click.pass_obj
def show_letter(site_dir: Path, id: str, regions: tuple[str, ...], out: str | None) -> None:
    """Show a dead letter with its event."""
    with patience("the regions"):
        letter = letters.dead_letter(Site.load(site_dir), id, regions)
    click.echo(show.plain(letter, out) if out else show.dead_letter(letter))


@dlq.command(epilog=example("faas dlq redrive ID", "faas dlq redrive --function hello"))
@_which
@click.pass_obj
def redrive(
    site_dir: Path,
    ids: tuple[str, ...],
    function: str | None,
    everything: bool,
    regions: tuple[str, ...],
) -> None:
    """Send dead letters to their function again, as new events."""
    _demand(ids, function, everything)
    with patience("the regions"):
        done = letters.redrive(Site.load(site_dir), ids, function, regions)
    _tell(done, "redriven")


@dlq.command(epilog=example("faas dlq purge ID"))
@_which
@click.pass_obj
def purge(
    site_dir: Path,
    ids: tuple[str, ...],
    function: str | None,
    everything: bool,
    regions: tuple[str, ...],
) -> None:
    """Delete dead letters for good."""
    _demand(ids, function, everything)
    with patience("the regions"):
        done = letters.purge(Site.load(site_dir), ids, function, regions)
    _tell(done, "purged")


def _tell(done: Sequence[letters.DeadLetter], what: str) -> None:
    counts = Counter(letter.region for letter in done)
    for region, count in sorted(counts.items()):
        say(f"{region}: {count} dead letter{'s' if count > 1 else ''} {what}")
    if not counts:
        say("There is no dead letter")
