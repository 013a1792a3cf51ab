# SPDX-License-Identifier: Apache-2.0
"""`faas autoscale`: how many pods a function may have, and for how much work."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from koren_faas import deployment, show
from koren_faas.cli.common import FUNCTION, LIST_OUTPUT, REGION, Group, dicts, example, say, tell_list, warn
from koren_faas.function import Function
from koren_faas.site import Site
from koren_faas.terminal import patience

_RULE = ("min_scale", "max_scale", "target")
_DEFAULT = {field.name: field.default for field in fields(Function) if field.name in _RULE}


@click.group(cls=Group)
def autoscale() -> None:
    """Change how functions scale. By default each scales from 0 to 10 pods."""


@autoscale.command(epilog=example("faas autoscale create hello --min 1 --max 5"))
@FUNCTION
@click.option("--min", "min_scale", type=int, help="Minimum number of pods in one region.")
@click.option("--max", "max_scale", type=int, help="Maximum number of pods in one region.")
@click.option(
    "--metric",
    type=click.Choice([show.METRIC]),
    default=show.METRIC,
    help="What to scale by: incidents with work, the only metric.",
)
@click.option(
    "--value",
    "target",
    type=int,
    help="Number of incidents for one pod, at least its concurrency times its batch size.",
)
@REGION
@click.pass_obj
def create(
    site_dir: Path, /, name: str, metric: str, regions: tuple[str, ...], **rule: int | None
) -> None:
    """Automatically scale a function. Options that are not given stay as they are."""
    given = {key: value for key, value in rule.items() if value is not None}
    if not given:
        raise click.UsageError("Nothing to change: give --min, --max or --value.")
    site = Site.load(site_dir)
    say("Adding autoscaling rule to the function...")
    deployment.update(site, name, given, regions, on_progress=say)
    say(f"Autoscaling rule for {name} submitted for deployment")


@click.command("list", epilog=example("faas autoscale list"))
@REGION
@LIST_OUTPUT
@click.pass_obj
def list_rules(site_dir: Path, regions: tuple[str, ...], out: str | None) -> None:
    """List how functions scale. Without --region, in all regions."""
    with patience("the regions"):
        found = deployment.ls(Site.load(site_dir), (), regions)
    keys = ("name", "namespace", "region", *_RULE)
    rules = [{key: one[key] for key in keys} for one in dicts(found.functions)]
    tell_list(rules, out, lambda wide: show.autoscales(found.functions, wide=wide))
    warn(found.unreachable)


autoscale.add_command(list_rules)
autoscale.add_command(list_rules, "ls")


@autoscale.command(epilog=example("faas autoscale delete hello"))
@FUNCTION
@REGION
@click.pass_obj
def delete(site_dir: Path, name: str, regions: tuple[str, ...]) -> None:
    """Let a function scale by the defaults again."""
    site = Site.load(site_dir)
    found = deployment.placed(site, name, regions)
    if all(getattr(one.function, key) == _DEFAULT[key] for one in found for key in _RULE):
        raise click.ClickException(f"Not found an auto scale definition for {name}")
    say("Removing autoscaling rule from the function...")
    deployment.update(site, name, _DEFAULT, [one.region for one in found], on_progress=say)
    say(f"Removed Autoscaling rule from {name}")
