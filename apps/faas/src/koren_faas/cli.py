# SPDX-License-Identifier: Apache-2.0
"""The command `faas`: Kubeless's verbs and flags, for the regions of a site."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from koren_faas import deployment, show
from koren_faas.calling import call
from koren_faas.change import Result
from koren_faas.errors import FaasError
from koren_faas.function import Function
from koren_faas.logs import logs
from koren_faas.site import Site, default_dir

F = TypeVar("F", bound=Callable[..., Any])

_REGION = click.option(
    "--region", "regions", multiple=True, help="Region, may be given more than once."
)
_OUTPUT = click.option(
    "-o", "--out", type=click.Choice(["json", "yaml"]), help="Output format instead of a table."
)
_DRYRUN = click.option(
    "--dryrun", is_flag=True, help="Change nothing, print what would change as a diff."
)

_NEEDED = {"--runtime": "runtime", "--handler": "handler", "--from-file": "source"}


class _Group(click.Group):
    """Tells the package's errors as click tells its own: one message, exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FaasError as error:
            raise click.ClickException(str(error)) from error


def _pairs(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE, and KEY:VALUE as Kubeless takes it, to a dictionary."""
    pairs = {}
    for value in values:
        ends = [at for at in (value.find("="), value.find(":")) if at > 0]
        if not ends:
            raise click.BadParameter(f"{value!r} is not of the form KEY=VALUE")
        pairs[value[: min(ends)]] = value[min(ends) + 1 :]
    return pairs


def _function_options(command: F) -> F:
    """The flags that describe a function; what is not given has no value."""
    path = click.Path(exists=True, path_type=Path)
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in (
        _DRYRUN,
        _REGION,
        click.option("--incident-limit", "incident_limit_s", type=int, metavar="SECONDS",
                     help="An open incident counts as closed after this time."),
        click.option("--closes", metavar="TYPE", help="Event type that closes an incident."),
        click.option("--opens", metavar="TYPE", help="Event type that opens an incident: "
                     "the function stays up until it closes."),
        click.option("--max-attempts", type=int, help="Tries before an event is a dead letter."),
        click.option("--max-scale", type=int, help="Most pods in one region."),
        click.option("--timeout", "timeout_s", type=int, metavar="SECONDS",
                     help="Time that the handler may take for one event."),
        click.option("--cpu", help="Requested CPU in cores, such as 0.5 or 500m."),
        click.option("--memory", help="Requested and most memory, such as 256Mi."),
        click.option("-e", "--env", multiple=True, callback=_pairs, metavar="KEY=VALUE",
                     help="Environment variable, may be given more than once."),
        click.option("--secret", "--secrets", "secrets", multiple=True,
                     help="Secret, mounted as files below /run/secrets/SECRET; "
                     "may be given more than once."),
        click.option("--topic", help="MQTT topic filter whose events the function gets; "
                     "{region} stands for the region's name."),
        click.option("-d", "--dependencies", type=file,
                     help="Requirements file, installed into the function's image."),
        click.option("-r", "--runtime", help="Runtime, such as python3.11."),
        click.option("--handler", metavar="MODULE.FUNCTION", help="What is called."),
        click.option("-f", "--from-file", "source", type=path, help="Code: a file or a folder."),
    ):  # fmt: skip
        command = option(command)
    return command


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value not in (None, (), {})}


def _say(line: str) -> None:
    click.echo(line, err=True)


def _tell(name: str, result: Result, dryrun: bool) -> None:
    if dryrun:
        click.echo(show.diff(result.diff) or "Nothing would change")
    elif not result.changed:
        _say(f"Function {name} is in place already in {', '.join(result.regions)}")
    else:
        _say(f"Function {name} submitted for deployment")
        _say(f"Check the deployment status executing 'faas function ls {name}'")


@click.group(cls=_Group)
@click.version_option(package_name="koren-faas", message="faas %(version)s")
@click.option(
    "--site-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the site's state.  [env: KOREN_SITE_DIR; default: .state/local]",
)
@click.pass_context
def main(ctx: click.Context, site_dir: Path | None) -> None:
    """Functions on the regions of a site."""
    ctx.obj = site_dir or default_dir()


@main.group(cls=_Group)
def function() -> None:
    """Deploy, list, call and delete functions."""


@function.command()
@click.argument("name")
@_function_options
@click.pass_obj
def deploy(
    site_dir: Path, /, name: str, regions: tuple[str, ...], dryrun: bool, **options: Any
) -> None:
    """Deploy a function, to every edge unless regions are named."""
    given = _given(options)
    for flag, key in _NEEDED.items():
        if key not in given:
            raise click.UsageError(f"A function needs {flag}.")
    spec = Function(name=name, **given)
    site = Site.load(site_dir)
    _say("Deploying function...")
    result = deployment.deploy(site, spec, regions, check=dryrun, on_progress=_say)
    _tell(name, result, dryrun)


@function.command()
@click.argument("name")
@_function_options
@click.pass_obj
def update(
    site_dir: Path, /, name: str, regions: tuple[str, ...], dryrun: bool, **options: Any
) -> None:
    """Change a function where it is; what is not given stays."""
    given = _given(options)
    if not given:
        raise click.UsageError("Nothing to change: give at least one flag.")
    site = Site.load(site_dir)
    _say("Redeploying function...")
    result = deployment.update(site, name, given, regions, check=dryrun, on_progress=_say)
    _tell(name, result, dryrun)


@click.command("ls")
@click.argument("names", nargs=-1)
@_REGION
@click.option("-o", "--out", type=click.Choice(["json", "yaml", "wide"]), help="Output format.")
@click.pass_obj
def list_functions(
    site_dir: Path, names: tuple[str, ...], regions: tuple[str, ...], out: str | None
) -> None:
    """List functions, of every region unless some are named."""
    found = deployment.ls(Site.load(site_dir), names, regions)
    if out in ("json", "yaml"):
        click.echo(show.document(found.functions, out))
    else:
        click.echo(show.listing(found.functions, wide=out == "wide"))
    for error in found.unreachable.values():
        _say(f"Warning: {error}")
    missing = set(names) - {one.function.name for one in found.functions}
    if missing:
        names = tuple(sorted(missing))
        raise click.ClickException(f"Error listing function {', '.join(names)}: not found")
    if found.unreachable:
        raise click.exceptions.Exit(1)


function.add_command(list_functions)
function.add_command(list_functions, "list")


@function.command()
@click.argument("name")
@_REGION
@_OUTPUT
@click.pass_obj
def describe(site_dir: Path, name: str, regions: tuple[str, ...], out: str | None) -> None:
    """Show all of a function, in each region that has it."""
    found = deployment.placed(Site.load(site_dir), name, regions)
    if out:
        click.echo(show.document(found, out))
    else:
        click.echo("\n\n".join(show.description(one) for one in found))


@function.command("call")
@click.argument("name")
@click.option("--region", help="Region to call it in; needed when several have it.")
@click.option("-d", "--data", help="The event's data: JSON, else taken as a text.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the region holds the event.")
@click.pass_obj
def call_function(
    site_dir: Path, name: str, region: str | None, data: str | None, no_wait: bool
) -> None:
    """Call a function and print its result; it may be idle."""
    site = Site.load(site_dir)
    if region is None:
        places = [one.region for one in deployment.placed(site, name)]
        if len(places) > 1:
            raise click.UsageError(
                f"{name} is in {', '.join(places)}: name one of them with --region."
            )
        region = places[0]
    (place,) = site.pick([region])
    result = call(site, name, place, _data(data), wait=not no_wait)
    if not isinstance(result, str):
        result = json.dumps(result, ensure_ascii=False)
    click.echo(result)


def _data(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


@function.command()
@click.argument("name")
@_REGION
@_DRYRUN
@click.pass_obj
def delete(site_dir: Path, name: str, regions: tuple[str, ...], dryrun: bool) -> None:
    """Delete a function, from every region unless some are named."""
    site = Site.load(site_dir)
    result = deployment.delete(site, name, regions, check=dryrun, on_progress=_say)
    if dryrun:
        click.echo(show.diff(result.diff) or "Nothing would change")
    elif not result.changed:
        place = ", ".join(regions) or f"any region of site {site.name}"
        raise click.ClickException(f"function {name!r} is not in {place}")


@function.command("logs")
@click.argument("name")
@_REGION
@click.option("-f", "--follow", is_flag=True, help="Go on, also with pods that come later.")
@click.pass_obj
def show_logs(site_dir: Path, name: str, regions: tuple[str, ...], follow: bool) -> None:
    """Show what a function's pods write."""
    site = Site.load(site_dir)
    empty = True
    for line in logs(site, name, regions, follow=follow):
        empty = False
        click.echo(f"{line.region}/{line.pod}: {line.text}")
    if empty:
        _say(f"{name} is idle: no pod of it is running")
