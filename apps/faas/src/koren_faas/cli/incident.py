# SPDX-License-Identifier: Apache-2.0
"""`faas incident`: accidents as the console shows them, and decisions on those that wait for one."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas import held, overview, show
from koren_faas.cli.common import LIST_OUTPUT, OUTPUT, REGION, Group, example, say, tell_decisions, tell_list
from koren_faas.console import MOST_INCIDENTS, Console
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.group(cls=Group)
def incident() -> None:
    """Show incidents, and decide on those that wait for a person. An incident's ID is the subject of its events."""


@incident.command("ls", epilog=example("faas incident ls --state held"))
@click.option(
    "--state",
    type=click.Choice(["held", "open", "cleared", "dismissed"]),
    help="Only incidents in this state.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=MOST_INCIDENTS),
    default=100,
    show_default=True,
    help="Show at most this many, the latest.",
)
@REGION
@LIST_OUTPUT
@click.pass_obj
def ls(
    site_dir: Path, state: str | None, limit: int, regions: tuple[str, ...], out: str | None
) -> None:
    """List incidents, the latest first."""
    with patience("the console"):
        found = Console(Site.load(site_dir)).incidents(regions, state)
    shown = found[:limit]
    tell_list(shown, out, lambda wide: overview.incidents(shown, wide=wide), name="subject")
    if len(found) > limit:
        say(
            f"There are more than {limit}: show them with --limit, or narrow them by --region or --state"
        )
    elif len(found) == MOST_INCIDENTS:
        say(f"The console lists the latest {MOST_INCIDENTS}: narrow them by --region or --state")


incident.add_command(ls, "list")


@incident.command("show", epilog=example("faas incident show SUBJECT"))
@click.argument("id")
@OUTPUT
@click.pass_obj
def show_one(site_dir: Path, id: str, out: str | None) -> None:
    """Show one incident: what was posted, and each moment of its life."""
    site = Site.load(site_dir)
    with patience("the console"):
        found = Console(site).incident(id)
    click.echo(show.plain(found, out) if out else overview.incident(found, site.console))


@incident.command(epilog=example("faas incident confirm SUBJECT"))
@click.argument("ids", nargs=-1, required=True)
@REGION
@click.pass_obj
def confirm(site_dir: Path, ids: tuple[str, ...], regions: tuple[str, ...]) -> None:
    """Confirm held incidents. Their events go to their functions, later ones too."""
    with patience("the regions"):
        done = held.release_incidents(Site.load(site_dir), ids, regions)
    tell_decisions(done, "released")


@incident.command(epilog=example("faas incident dismiss SUBJECT"))
@click.argument("ids", nargs=-1, required=True)
@REGION
@click.pass_obj
def dismiss(site_dir: Path, ids: tuple[str, ...], regions: tuple[str, ...]) -> None:
    """Dismiss held incidents. No function gets their events, nor later ones."""
    with patience("the regions"):
        done = held.dismiss_incidents(Site.load(site_dir), ids, regions)
    tell_decisions(done, "dismissed")
