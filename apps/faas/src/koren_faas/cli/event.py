# SPDX-License-Identifier: Apache-2.0
"""`faas event`: events that wait for a person's decision."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas import held as holding
from koren_faas import show
from koren_faas.cli.common import (
    ALL,
    LIMIT,
    LIST_OUTPUT,
    REGION,
    Group,
    dicts,
    example,
    tell_decisions,
    tell_list,
    tell_more,
    warn,
)
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.group(cls=Group)
def event() -> None:
    """Manage held events. They start no function until someone releases them."""


@event.command("held", epilog=example("faas event held", "faas event held ID -o json"))
@click.argument("id", required=False)
@LIMIT
@ALL
@REGION
@LIST_OUTPUT
@click.pass_obj
def list_held(
    site_dir: Path,
    id: str | None,
    limit: int,
    everything: bool,
    regions: tuple[str, ...],
    out: str | None,
) -> None:
    """List held events. With ID, show that event with its message."""
    site = Site.load(site_dir)
    if id is not None:
        with patience("the regions"):
            event = holding.held_event(site, id, regions)
        if out == "name":
            click.echo(event["id"])
        else:
            click.echo(show.plain(event, out) if out in ("json", "yaml") else show.held_event(event))
        return
    with patience("the regions"):
        found = holding.held(site, regions, limit=None if everything else limit)
    tell_list(
        dicts(found.events), out, lambda wide: show.held_events(found.events, wide=wide), name="id"
    )
    tell_more(found.more, limit)
    warn(found.unreachable)


@event.command(epilog=example("faas event release ID"))
@click.argument("ids", nargs=-1, required=True)
@REGION
@click.pass_obj
def release(site_dir: Path, ids: tuple[str, ...], regions: tuple[str, ...]) -> None:
    """Release held events. All held events of their subject go to their functions, later ones too."""
    with patience("the regions"):
        done = holding.release(Site.load(site_dir), ids, regions)
    tell_decisions(done, "released")


@event.command(epilog=example("faas event dismiss ID"))
@click.argument("ids", nargs=-1, required=True)
@REGION
@click.pass_obj
def dismiss(site_dir: Path, ids: tuple[str, ...], regions: tuple[str, ...]) -> None:
    """Dismiss held events. No function gets those of their subject, nor later ones."""
    with patience("the regions"):
        done = holding.dismiss(Site.load(site_dir), ids, regions)
    tell_decisions(done, "dismissed")
