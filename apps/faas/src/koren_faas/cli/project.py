# SPDX-License-Identifier: Apache-2.0
"""`faas check`, `diff` and `apply`: the functions of a file, and the regions as it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from koren_faas import show
from koren_faas.change import Result
from koren_faas.cli.common import CONFIG, DIFFERS, ENVIRONMENT, FUNCTIONS, REGION, example, say
from koren_faas.config import Config
from koren_faas.errors import FaasError
from koren_faas.function import Function
from koren_faas.placing import Trigger, place
from koren_faas.runtimes import IMAGE
from koren_faas.site import Site
from koren_faas.source import read, unpacked
from koren_faas.terminal import patience

Wanted = dict[str, tuple[dict[str, Function], tuple[Trigger, ...]]]
"""Function's name to what is wanted in each region, by the region's name, and its triggers beside."""


@click.command(epilog=example("faas check", "faas check --config functions/faas.yaml"))
@FUNCTIONS
@CONFIG
@ENVIRONMENT
def check(names: tuple[str, ...], config: Path, environment: str | None) -> None:
    """Check faas.yaml, and the code that it names. This needs no site."""
    chosen = Config.load(config, environment).pick(names)
    for entry in chosen:
        entry.triggers()
        for region in entry.regions:
            entry.function(region)
        function = entry.local()
        if function.runtime != IMAGE:
            with unpacked(function) as folder:
                read(function, folder)
    say(f"{config} is valid: {', '.join(entry.name for entry in chosen)}")


@click.command(epilog=example("faas diff", "faas diff hello --environment trial --region seoul"))
@FUNCTIONS
@CONFIG
@ENVIRONMENT
@REGION
@click.pass_obj
def diff(
    site_dir: Path,
    names: tuple[str, ...],
    config: Path,
    environment: str | None,
    regions: tuple[str, ...],
) -> None:
    """Show what 'faas apply' would change, and in which regions. Exits with 3 if it would change something."""
    site = Site.load(site_dir)
    differs = False
    for name, result in _each(site, _wanted(site, names, config, environment, regions), check=True):
        if result.changed:
            differs = True
            click.echo(show.diff(result.diff))
            say(f"{name} would change in {', '.join(result.changed_regions)}")
    if differs:
        raise click.exceptions.Exit(DIFFERS)
    say("Nothing would change")


@click.command(epilog=example("faas apply", "faas apply hello --environment trial"))
@FUNCTIONS
@CONFIG
@ENVIRONMENT
@REGION
@click.pass_obj
def apply(
    site_dir: Path,
    names: tuple[str, ...],
    config: Path,
    environment: str | None,
    regions: tuple[str, ...],
) -> None:
    """Bring the regions to what faas.yaml says. What is so already stays untouched.

    Functions that are not in the file stay as they are. --region limits it to some of the functions' regions.
    """
    site = Site.load(site_dir)
    changed = False
    for name, result in _each(site, _wanted(site, names, config, environment, regions), check=False):
        if result.changed:
            changed = True
            click.echo(f"{name} changed in {', '.join(result.changed_regions)}")
        else:
            click.echo(f"{name} is in place already in {', '.join(result.regions)}")
    if not changed:
        say("Nothing changed")


def _wanted(
    site: Site,
    names: tuple[str, ...],
    config: Path,
    environment: str | None,
    regions: tuple[str, ...],
) -> Wanted:
    """All of it is checked before anything is touched."""
    entries = Config.load(config, environment).pick(names)
    wanted = {entry.name: (entry.wanted(site, regions), entry.triggers()) for entry in entries}
    return {name: (places, triggers) for name, (places, triggers) in wanted.items() if places}


def _each(site: Site, wanted: Wanted, *, check: bool) -> Iterator[tuple[str, Result]]:
    """Place one function after the other. One that fails does not keep the others from their regions."""
    failed: dict[str, FaasError] = {}
    for name, (places, triggers) in wanted.items():
        try:
            if check:
                with patience("the regions"):
                    result = place(site, places, triggers, check=True)
            else:
                result = place(site, places, triggers, on_progress=say)
            yield name, result
        except FaasError as error:
            failed[name] = error
    if failed:
        lines = [f"{name}: {error}" for name, error in failed.items()]
        raise click.ClickException(show.printable("\n".join(lines), lines=True))
