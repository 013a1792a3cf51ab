# SPDX-License-Identifier: Apache-2.0
"""`faas source mqtt`: which MQTT messages become events."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas import mqtt_sources, show
from koren_faas.cli.common import (
    DRYRUN,
    LIST_OUTPUT,
    OUTPUT,
    REGION,
    Group,
    dicts,
    example,
    say,
    tell_list,
    warn,
)
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.group(cls=Group)
def source() -> None:
    """Create, list, describe and delete sources of events."""


@source.group(cls=Group)
def mqtt() -> None:
    """MQTT topics whose messages become events, whatever their payload."""


@mqtt.command(
    epilog=example("faas source mqtt create press --topic plant/press/+ --publisher press-3")
)
@click.argument("name")
@click.option(
    "--topic",
    required=True,
    help="MQTT topic filter; {region} in it stands for the region's name.",
)
@click.option(
    "--subject-from",
    default="",
    metavar="topic|topic.N|payload.FIELD",
    help="What the events of one subject have in common: they keep their order. Default: no order.",
)
@click.option(
    "--id-from",
    default="",
    metavar="payload.FIELD",
    help="The messages' own id, by which repeats are known. Default: none.",
)
@click.option(
    "--publisher",
    "publishers",
    multiple=True,
    metavar="USER",
    help="Who may publish: the name of a certificate, or of a user with a password; may be repeated.",
)
@REGION
@DRYRUN
@click.pass_obj
def create(
    site_dir: Path,
    name: str,
    topic: str,
    subject_from: str,
    id_from: str,
    publishers: tuple[str, ...],
    regions: tuple[str, ...],
    dryrun: bool,
) -> None:
    """Have the messages of a topic at the regions' brokers taken in. Without --region, at all edges.

    A function gets them with the topic events/{region}/NAME/mqtt.
    """
    spec = mqtt_sources.MqttSource(
        name=name,
        topic=topic,
        subject_from=subject_from,
        id_from=id_from,
        publishers=publishers,
    )
    result = mqtt_sources.create(
        Site.load(site_dir), spec, regions, check=dryrun, on_progress=say
    )
    if dryrun:
        click.echo(show.diff(result.diff))
    elif not result.changed:
        say(f"MQTT source {name} is in place already in {', '.join(result.regions)}")
    if not publishers:
        say(f"Nobody may publish to {topic} by this: name users with --publisher")


@click.command("ls", epilog=example("faas source mqtt ls"))
@REGION
@LIST_OUTPUT
@click.pass_obj
def ls(site_dir: Path, regions: tuple[str, ...], out: str | None) -> None:
    """List all MQTT sources. Without --region, of all regions."""
    with patience("the regions"):
        found, unreachable = mqtt_sources.sources(Site.load(site_dir), regions)
    tell_list(dicts(found), out, lambda wide: show.sources(found, wide=wide))
    warn(unreachable)


mqtt.add_command(ls)
mqtt.add_command(ls, "list")


@mqtt.command(epilog=example("faas source mqtt describe press"))
@click.argument("name")
@REGION
@OUTPUT
@click.pass_obj
def describe(site_dir: Path, name: str, regions: tuple[str, ...], out: str | None) -> None:
    """Show a source, and why a region refuses it."""
    with patience("the regions"):
        found = mqtt_sources.placed(Site.load(site_dir), name, regions)
    click.echo(show.document(found, out) if out else "\n\n".join(map(show.source, found)))


@mqtt.command(epilog=example("faas source mqtt delete press"))
@click.argument("name")
@REGION
@DRYRUN
@click.pass_obj
def delete(site_dir: Path, name: str, regions: tuple[str, ...], dryrun: bool) -> None:
    """Delete a source and its publishers' rights. Events that it has brought stay."""
    site = Site.load(site_dir)
    mqtt_sources.placed(site, name, regions)
    result = mqtt_sources.delete(site, name, regions, check=dryrun, on_progress=say)
    if dryrun:
        click.echo(show.diff(result.diff))
