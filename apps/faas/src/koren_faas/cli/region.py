# SPDX-License-Identifier: Apache-2.0
"""`faas region`: how the regions of the site are."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas import overview
from koren_faas.cli.common import LIST_OUTPUT, REGION, Group, example, tell_list, warn
from koren_faas.console import Console, ConsoleError
from koren_faas.errors import FaasError
from koren_faas.region_state import region_states
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.group(cls=Group)
def region() -> None:
    """Show the regions of the site."""


@region.command("ls", epilog=example("faas region ls"))
@REGION
@LIST_OUTPUT
@click.pass_obj
def ls(site_dir: Path, regions: tuple[str, ...], out: str | None) -> None:
    """List regions as the console shows them.

    If the console does not answer, each region's own API server is asked. It knows its nodes and the functions' pods.
    """
    site = Site.load(site_dir)
    problems: dict[str, FaasError] = {}
    try:
        with patience("the console"):
            found = Console(site).regions(regions)
    except ConsoleError as error:
        with patience("the regions"):
            found, silent = region_states(site, regions)
        problems = {"console": error, **silent}
    tell_list(found, out, lambda wide: overview.regions(found, wide=wide))
    warn(problems)


region.add_command(ls, "list")
