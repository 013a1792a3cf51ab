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
    OUTPUT,
    REGION,
    Group,
    tell_decisions,
    tell_more,
    warn,
)
from koren_faas.site import Site


@click.group(cls=Group)
def event() -> None:
    """Manage held events. They start no function until someone releases them."""


@event.command("held")
@click.argument("id", required=False)
@LIMIT
@ALL
@REGION
@OUTPUT
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
        event = holding.held_event(site, id, regions)
        click.echo(show.plain(event, out) if out else show.held_event(event))
        return
    found = holding.held(site, regions, limit=None if everything else limit)
    click.echo(show.document(found.events, out) if out else show.held_events(found.events))
    tell_more(found.more, limit)
    warn(found.unreachable)


@event.command()
@click.argument("ids", nargs=-1, required=True)
@REGION
@click.pass_obj
def release(site_dir: Path, ids: tuple[str, ...], regions: tuple[str, ...]) -> None:
    """Release held events. All held events of their subject go to their functions, later ones too."""
    tell_decisions(holding.release(Site.load(site_dir), ids, regions), "released")


@event.command()
@click.argument("ids", nargs=-1, required=True)
@REGION
@click.pass_obj
def dismiss(site_dir: Path, ids: tuple[str, ...], regions: tuple[str, ...]) -> None:
    """Dismiss held events. No function gets those of their subject, nor later ones."""
    tell_decisions(holding.dismiss(Site.load(site_dir), ids, regions), "dismissed")
