# SPDX-License-Identifier: Apache-2.0
"""`faas trigger mqtt`: which events start a function."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas import manifests, show, triggers
from koren_faas.cli.common import FUNCTION, LIST_OUTPUT, REGION, Group, dicts, example, say, tell_list, warn
from koren_faas.errors import NotDeployedError
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.group(cls=Group)
def trigger() -> None:
    """Create, list and delete triggers."""


@trigger.group(cls=Group)
def mqtt() -> None:
    """Create, list and delete MQTT triggers. A function has one at most."""


@mqtt.command(
    epilog=example("faas trigger mqtt create hello --trigger-topic 'events/{region}/+/accident'")
)
@FUNCTION
@click.option(
    "--trigger-topic",
    "topic",
    required=True,
    metavar="TOPIC",
    help="MQTT topic filter to listen to; {region} stands for the region's name.",
)
@click.option(
    "--function-selector",
    "selector",
    metavar="function=NAME",
    help="The function to start; default: the one with the trigger's name.",
)
@REGION
@click.pass_obj
def create(
    site_dir: Path, name: str, topic: str, selector: str | None, regions: tuple[str, ...]
) -> None:
    """Create an MQTT trigger. Without --region, in all regions that have the function."""
    function = triggers.selected(selector) if selector else name
    result = triggers.create(Site.load(site_dir), name, topic, function, regions, on_progress=say)
    if result.changed:
        say(f"MQTT trigger {name} created in namespace {manifests.NAMESPACE} successfully!")
    else:
        say(f"MQTT trigger {name} is in place already in {', '.join(result.regions)}")


@click.command("list", epilog=example("faas trigger mqtt list"))
@REGION
@LIST_OUTPUT
@click.pass_obj
def list_triggers(site_dir: Path, regions: tuple[str, ...], out: str | None) -> None:
    """List all MQTT triggers. Without --region, of all regions."""
    with patience("the regions"):
        found, unreachable = triggers.triggers(Site.load(site_dir), regions)
    tell_list(dicts(found), out, lambda wide: show.triggers(found, wide=wide))
    warn(unreachable)


mqtt.add_command(list_triggers)
mqtt.add_command(list_triggers, "ls")


@mqtt.command(epilog=example("faas trigger mqtt delete hello"))
@FUNCTION
@REGION
@click.pass_obj
def delete(site_dir: Path, name: str, regions: tuple[str, ...]) -> None:
    """Delete an MQTT trigger. Only calls start its function then."""
    try:
        triggers.delete(Site.load(site_dir), name, regions, on_progress=say)
    except NotDeployedError as error:
        raise click.ClickException(
            f"Failed to delete MQTT trigger object {name} in namespace {manifests.NAMESPACE}."
            f" Error: {error}"
        ) from error
    say(f"MQTT trigger {name} deleted from namespace {manifests.NAMESPACE} successfully!")
