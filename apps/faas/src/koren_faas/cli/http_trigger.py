# SPDX-License-Identifier: Apache-2.0
"""`faas trigger http`: which requests of a region's ingress start a function."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas import http_triggers, manifests, show, triggers
from koren_faas.cli.common import DRYRUN, LIST_OUTPUT, REGION, Group, dicts, example, say, tell_list, warn
from koren_faas.cli.completion import complete_function
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.group(cls=Group)
def http() -> None:
    """Create, list and delete HTTP triggers: paths of a region's ingress that start a function."""


@http.command(
    epilog=example(
        "faas trigger http create orders --function hello --token-secret orders-tokens",
        "faas trigger http create hello --function hello --methods GET --anonymous --rate 10/s",
    )
)
@click.argument("name")
@click.option(
    "--function", "-f", required=True, shell_complete=complete_function, help="The function that a request starts."
)
@click.option("--path", help="Path of the requests; /orders/* takes what is below /orders too. Default: /NAME.")
@click.option("--host", default="", help="Name that clients ask for; {region} stands for the region's. Default: any.")
@click.option("--methods", default="POST", show_default=True, metavar="POST,GET", help="Methods of the requests.")
@click.option(
    "--async", "is_async", is_flag=True, help="Answer with a receipt at once, by which a client asks for the result."
)
@click.option("--rate", default="", metavar="N/s|N/m", help="Requests that a region takes. Default: no limit.")
@click.option("--token-secret", default="", metavar="SECRET", help="Secret whose values are the tokens of clients.")
@click.option("--anonymous", is_flag=True, help="Anybody who reaches the ingress may start the function.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME", help="Request header that the function gets; may be repeated."
)
@REGION
@DRYRUN
@click.pass_obj
def create(
    site_dir: Path,
    name: str,
    function: str,
    path: str | None,
    host: str,
    methods: str,
    is_async: bool,
    rate: str,
    token_secret: str,
    anonymous: bool,
    headers: tuple[str, ...],
    regions: tuple[str, ...],
    dryrun: bool,
) -> None:
    """Create or change an HTTP trigger. Without --region, in all regions that have the function."""
    if bool(token_secret) is anonymous:
        raise click.UsageError("give either --token-secret, or --anonymous so that anybody may start the function")
    spec = http_triggers.HttpTrigger(
        name=name,
        function=function,
        path=path or f"/{name}",
        host=host,
        methods=tuple(methods.upper().replace(",", " ").split()),
        is_async=is_async,
        rate=rate,
        token_secret=token_secret,
        headers=headers,
    )
    result = http_triggers.create(Site.load(site_dir), spec, regions, check=dryrun, on_progress=say)
    if dryrun:
        click.echo(show.diff(result.diff))
    elif result.changed:
        say(f"HTTP trigger {name} created in namespace {manifests.NAMESPACE} successfully!")
    else:
        say(f"HTTP trigger {name} is in place already in {', '.join(result.regions)}")


@click.command("list", epilog=example("faas trigger http list"))
@REGION
@LIST_OUTPUT
@click.pass_obj
def list_triggers(site_dir: Path, regions: tuple[str, ...], out: str | None) -> None:
    """List all HTTP triggers, and why a region refuses one. Without --region, of all regions."""
    with patience("the regions"):
        found, unreachable = http_triggers.triggers(Site.load(site_dir), regions)
    tell_list(dicts(found), out, lambda wide: show.http_triggers(found, wide=wide))
    for one in found:
        if one.problem:
            say(f"{one.region} refuses {one.name}: {one.problem}")
    warn(unreachable)


http.add_command(list_triggers)
http.add_command(list_triggers, "ls")


@http.command(epilog=example("faas trigger http delete orders"))
@click.argument("name")
@REGION
@DRYRUN
@click.pass_obj
def delete(site_dir: Path, name: str, regions: tuple[str, ...], dryrun: bool) -> None:
    """Delete an HTTP trigger. Requests that were taken in are finished; its Secret stays."""
    result = triggers.delete(Site.load(site_dir), name, regions, triggers.HTTP, check=dryrun, on_progress=say)
    if dryrun:
        click.echo(show.diff(result.diff))
    else:
        say(f"HTTP trigger {name} deleted from namespace {manifests.NAMESPACE} successfully!")
