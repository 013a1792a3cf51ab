# SPDX-License-Identifier: Apache-2.0
"""`faas trigger`: what starts a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from koren_faas import cron_triggers, manifests, show, triggers
from koren_faas.cli.common import (
    DELAY,
    DRYRUN,
    FUNCTION,
    LIST_OUTPUT,
    REGION,
    Group,
    dicts,
    example,
    say,
    tell_list,
    warn,
)
from koren_faas.errors import NotDeployedError
from koren_faas.site import Site
from koren_faas.terminal import patience

NAME = click.argument("name")


@click.group(cls=Group)
def trigger() -> None:
    """Create, list, pause and delete triggers."""


@trigger.command(epilog=example("faas trigger pause nightly", "faas trigger pause hello --region seoul"))
@NAME
@REGION
@click.pass_obj
def pause(site_dir: Path, name: str, regions: tuple[str, ...]) -> None:
    """Have a trigger of any kind start nothing. Its events wait, in order and on disk, until it is resumed.

    Requests of an HTTP trigger do not wait: clients get the status 503, with the advice to try again.
    Without --region, in all regions that have it.
    """
    _pause(site_dir, name, regions, paused=True)


@trigger.command(epilog=example("faas trigger resume nightly"))
@NAME
@REGION
@click.pass_obj
def resume(site_dir: Path, name: str, regions: tuple[str, ...]) -> None:
    """Have a paused trigger start its function again: first for what has waited, in order."""
    _pause(site_dir, name, regions, paused=False)


def _pause(site_dir: Path, name: str, regions: tuple[str, ...], *, paused: bool) -> None:
    result = triggers.pause(Site.load(site_dir), name, regions, paused=paused, on_progress=say)
    if not result.changed:
        state = "paused" if paused else "active"
        say(f"Trigger {name} is {state} already in {', '.join(result.regions)}")


@trigger.group(cls=Group)
def mqtt() -> None:
    """Create, list and delete MQTT triggers. A function may have several: it gets an event once."""


@mqtt.command(
    epilog=example(
        "faas trigger mqtt create hello --trigger-topic 'events/{region}/+/accident'",
        "faas trigger mqtt create check --function-selector function=hello --trigger-topic 'events/{region}/+/speed' "
        "--delay 5m",
    )
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
@DELAY
@REGION
@click.pass_obj
def create(
    site_dir: Path, name: str, topic: str, selector: str | None, delay_s: int | None, regions: tuple[str, ...]
) -> None:
    """Create an MQTT trigger. Without --region, in all regions that have the function.

    An existing trigger of the name gets the new values. Another delay is for events that come from then on.
    """
    function = triggers.selected(selector) if selector else name
    site = Site.load(site_dir)
    try:
        result = triggers.create(site, name, topic, function, regions, delay_s=delay_s or 0, on_progress=say)
    except NotDeployedError as error:
        if selector:
            raise
        raise NotDeployedError(f"{error}; or name the function with --function-selector function=NAME") from error
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
    """Delete an MQTT trigger. Events that it has brought are handled still, also if it is paused."""
    try:
        triggers.delete(Site.load(site_dir), name, regions, on_progress=say)
    except NotDeployedError as error:
        raise click.ClickException(
            f"Failed to delete MQTT trigger object {name} in namespace {manifests.NAMESPACE}."
            f" Error: {error}"
        ) from error
    say(f"MQTT trigger {name} deleted from namespace {manifests.NAMESPACE} successfully!")


@trigger.group(cls=Group)
def cronjob() -> None:
    """Create, list and delete triggers that start a function by the clock."""


@cronjob.command(
    "create",
    epilog=example(
        "faas trigger cronjob create nightly --function report --schedule '0 3 * * *' --timezone Asia/Seoul",
        "faas trigger cronjob create poll --function check --schedule '*/5 * * * *' --payload '{\"deep\": true}'",
    ),
)
@NAME
@click.option("--function", required=True, help="The function to start.")
@click.option(
    "--schedule",
    required=True,
    metavar="CRON",
    help="Minute, hour, day of the month, month and day of the week; or @hourly, @daily, @weekly, @monthly, @yearly.",
)
@click.option(
    "--timezone",
    default="UTC",
    show_default=True,
    metavar="ZONE",
    help="IANA name of the zone that the schedule is in.",
)
@click.option("--payload", metavar="JSON", help="Data of the events. Default: none.")
@click.option(
    "--starting-deadline",
    "starting_deadline_s",
    type=int,
    default=cron_triggers.DEADLINE_S,
    show_default=True,
    metavar="SECONDS",
    help="A run that was missed for longer is left out.",
)
@REGION
@DRYRUN
@click.pass_obj
def create_cronjob(
    site_dir: Path, /, payload: str | None, regions: tuple[str, ...], dryrun: bool, **its: Any
) -> None:
    """Start a function by the clock. Without --region, in all regions that have the function.

    Each moment of the schedule is one event. Runs of one trigger do not overlap. Of runs that were missed only the
    latest is made up for. An existing trigger of the name gets the new values.
    """
    data = None if payload is None else cron_triggers.payload_of(payload)
    spec = cron_triggers.CronTrigger(payload=data, **its)
    result = cron_triggers.create(Site.load(site_dir), spec, regions, check=dryrun, on_progress=say)
    if dryrun:
        click.echo(show.diff(result.diff))
    elif result.changed:
        say(f"Cronjob trigger {spec.name} created in namespace {manifests.NAMESPACE} successfully!")
    else:
        say(f"Cronjob trigger {spec.name} is in place already in {', '.join(result.regions)}")


@click.command("list", epilog=example("faas trigger cronjob list"))
@REGION
@LIST_OUTPUT
@click.pass_obj
def list_cronjobs(site_dir: Path, regions: tuple[str, ...], out: str | None) -> None:
    """List all cronjob triggers. Without --region, of all regions."""
    with patience("the regions"):
        found, unreachable = triggers.triggers(Site.load(site_dir), regions, triggers.CRON)
    tell_list(dicts(found), out, lambda wide: show.cron_triggers(found, wide=wide))
    warn(unreachable)


cronjob.add_command(list_cronjobs)
cronjob.add_command(list_cronjobs, "ls")


@cronjob.command("delete", epilog=example("faas trigger cronjob delete nightly"))
@NAME
@REGION
@click.pass_obj
def delete_cronjob(site_dir: Path, name: str, regions: tuple[str, ...]) -> None:
    """Delete a cronjob trigger. Events that it has made are handled still, also if it is paused."""
    triggers.delete(Site.load(site_dir), name, regions, triggers.CRON, on_progress=say)
    say(f"Cronjob trigger {name} deleted from namespace {manifests.NAMESPACE} successfully!")
