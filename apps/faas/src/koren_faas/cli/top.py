# SPDX-License-Identifier: Apache-2.0
"""`faas top`: what happens in the site now."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas import overview, show
from koren_faas.cli.common import LIST_OUTPUT, REGION, example, tell_list
from koren_faas.console import Console
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.command(epilog=example("faas top --region seoul"))
@REGION
@LIST_OUTPUT
@click.pass_obj
def top(site_dir: Path, regions: tuple[str, ...], out: str | None) -> None:
    """Show what happens in the site now.

    These are the console's figures of the whole site and of each function.
    P50 and P95 are from an event's own time to the handler's entry; LAST_START is the time of the last start from zero.
    --region limits the functions that are listed.
    """
    with patience("the console"):
        found = Console(Site.load(site_dir)).top(regions)
    if out in ("json", "yaml"):
        click.echo(show.plain(found.as_dict(), out))
    else:
        tell_list(
            found.functions, out, lambda wide: overview.top(found.summary, found.functions, wide=wide)
        )
