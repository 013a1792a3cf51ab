# SPDX-License-Identifier: Apache-2.0
"""`faas function`: deploy, update, list, describe, call, watch and delete functions."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from koren_faas import deployment, show, triggers
from koren_faas import history as handled
from koren_faas.archive import KINDS
from koren_faas.calling import call
from koren_faas.change import Result
from koren_faas.cli.common import (
    ALL,
    DELAY,
    DRYRUN,
    ENVIRONMENT,
    FUNCTION,
    FUNCTIONS,
    LIMIT,
    LIST_OUTPUT,
    OUTPUT,
    REGION,
    Group,
    dicts,
    example,
    say,
    seconds,
    tell_list,
    tell_more,
    warn,
)
from koren_faas.cli.completion import complete_region
from koren_faas.config import NAME as CONFIG_NAME
from koren_faas.config import Config
from koren_faas.endings import endings
from koren_faas.function import BATCH_MAX, CONCURRENCY_MAX, PRIORITIES, Function
from koren_faas.kube import Kube
from koren_faas.logs import logs
from koren_faas.placing import place
from koren_faas.runtimes import IMAGE, RUNTIMES
from koren_faas.search import moment
from koren_faas.site import Site
from koren_faas.terminal import patience
from koren_faas.usage import usage

F = TypeVar("F", bound=Callable[..., Any])

_NEEDED = {"--runtime": "runtime", "--handler": "handler", "--from-file": "source"}
_RUNTIMES = ", ".join(RUNTIMES)
_DEFAULTS = (
    "Defaults: {memory} of memory, {cpu} of CPU, {tmp_size} in /tmp, {timeout_s} s for an event,"
    " {min_scale} to {max_scale} pods, {max_attempts} attempts, {incident_limit_s} s for an incident."
).format_map({field.name: field.default for field in fields(Function)})


def _pairs(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str] | None:
    """KEY=VALUE, and KEY:VALUE as Kubeless takes it, to a dictionary; None without any."""
    pairs = {}
    for value in values:
        ends = [at for at in (value.find("="), value.find(":")) if at > 0]
        if not ends:
            raise click.BadParameter(f"{value!r} is not of the form KEY=VALUE")
        pairs[value[: min(ends)]] = value[min(ends) + 1 :]
    return pairs or None


def _words(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Words with commas or blanks between them; None when the option is not given."""
    if not values:
        return None
    return tuple(word for value in values for word in re.split(r"[\s,]+", value) if word)


def _or_none(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    return "" if value == "none" else value


def _function_options(command: F) -> F:
    """The flags that describe a function; what is not given has no value."""
    path = click.Path(exists=True, path_type=Path)
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in (
        DRYRUN,
        REGION,
        click.option("--incident-limit", "incident_limit_s", type=int, metavar="SECONDS",
                     help="Time after which an open incident counts as closed."),
        click.option("--closes", metavar="TYPE", help="Event type that closes an incident."),
        click.option("--opens", metavar="TYPE", help="Event type that opens an incident: "
                     "the function stays up until it closes."),
        click.option("--max-attempts", type=int, help="Attempts before an event becomes a dead letter."),
        click.option("--rate", metavar="N/s|N/m", callback=_or_none,
                     help="Most events that the function gets in one region in any second or minute; "
                     "none: no limit."),
        click.option("--history", metavar="DURATION", callback=_or_none,
                     help="How long a region keeps each event that the function has handled, for "
                     "'faas function replay', such as 24h; at most 7d; none: not at all."),
        click.option("--max-in-flight", type=int,
                     help="Most events that the function has in hand in one region; 0: as many as its pods take."),
        click.option("--priority", type=click.Choice(PRIORITIES),
                     help="Whose pods start first when the nodes of a region are full; those of a higher "
                     "priority may take the place of others."),
        click.option("--concurrency", type=int, help="Most events of different subjects that one pod "
                     f"handles side by side, up to {CONCURRENCY_MAX}. --memory is for all of them together."),
        click.option("--batch-window", "batch_window_s", metavar="DURATION", callback=seconds,
                     help="How long an event waits for a full batch, such as 5s; 5m at most, 0s: what is there goes "
                     "at once."),
        click.option("--batch-size", type=int, help="Most events of different subjects that the handler is given "
                     f"at once, up to {BATCH_MAX}; 1: no batches."),
        click.option("--max-scale", type=int, help="Maximum number of pods in one region."),
        click.option("--min-scale", type=int, help="Minimum number of pods in one region."),
        click.option("--timeout", "timeout_s", type=int, metavar="SECONDS",
                     help="Time limit of the handler for one event."),
        click.option("--tmp-size", metavar="SIZE", help="Size limit of /tmp, such as 1Gi; "
                     "a pod that exceeds it is evicted."),
        click.option("--cpu", help="CPU request in cores, such as 0.5 or 500m; no limit."),
        click.option("--memory", help="Memory request and limit, such as 256Mi."),
        click.option("-e", "--env", multiple=True, callback=_pairs, metavar="KEY=VALUE",
                     help="Environment variable; may be given more than once."),
        click.option("--egress", multiple=True, callback=_words, metavar="CIDR[:PORT]|none|default",
                     help="What the function may connect to, beside the gateway and DNS; may be given more "
                     "than once. default: the world without private addresses."),
        click.option("--secret", "--secrets", "secrets", multiple=True,
                     callback=lambda ctx, option, values: values or None,
                     help="Kubernetes Secret, mounted as files below /run/secrets/SECRET; "
                     "may be given more than once."),
        DELAY,
        click.option("--topic", help="MQTT topic filter whose events the function gets; "
                     "{region} stands for the region's name."),
        click.option("-d", "--dependencies", type=file,
                     help="Packages to install: a requirements file, or a package.json with its lock file beside it."),
        click.option("--packages", multiple=True, callback=_words, metavar="NAME[=VERSION],...",
                     help="Debian packages to unpack into the function's image, with their "
                     "dependencies; may be given more than once."),
        click.option("-r", "--runtime", help=f"Runtime: {_RUNTIMES}."),
        click.option("--handler", metavar="MODULE.FUNCTION", help="Function to call, such as handler.handler."),
        click.option("--from-archive", "archive", type=file,
                     help=f"Image of the runtime {IMAGE}: an OCI or Docker archive."),
        click.option("--image", metavar="REFERENCE", help=f"Image of the runtime {IMAGE}: its reference in a "
                     "registry, which this machine reads by skopeo and its logins."),
        click.option("-f", "--from-file", "source", type=path, help="Code: a file, a folder, "
                     f"or an archive of one ({KINDS})."),
    ):  # fmt: skip
        command = option(command)
    return command


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that have a value, as attributes of a function."""
    given = {key: value for key, value in options.items() if value is not None}
    contents = [key for key in ("source", "image", "archive") if key in given]
    if len(contents) > 1:
        raise click.UsageError("--from-file, --image and --from-archive exclude each other.")
    archive = given.pop("archive", None)
    return given if archive is None else {**given, "source": archive}


def _tell(name: str, result: Result, dryrun: bool) -> None:
    if dryrun:
        click.echo(show.diff(result.diff) or "Nothing would change")
    elif not result.changed:
        say(f"Function {name} is in place already in {', '.join(result.regions)}")
    else:
        say(f"Function {name} submitted for deployment")
        say(f"Check the deployment status executing 'faas function ls {name}'")


@click.group(cls=Group)
def function() -> None:
    """Deploy, list, call and delete functions."""


@function.command(
    epilog=f"{_DEFAULTS}\n\n{example('faas function deploy hello -r python3.11 --handler hello.handler -f hello.py')}"
)
@FUNCTION
@_function_options
@click.option(
    "-c",
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"File that describes the function; flags that are given replace what it says.  [default: {CONFIG_NAME} "
    "here, if no --from-file is given]",
)
@ENVIRONMENT
@click.pass_obj
def deploy(
    site_dir: Path,
    /,
    name: str,
    regions: tuple[str, ...],
    dryrun: bool,
    config: Path | None,
    environment: str | None,
    **options: Any,
) -> None:
    """Deploy a function. Without --region, to all edges.

    With a faas.yaml, NAME is one of its functions, and no flag is needed.
    """
    given = _given(options)
    has_content = "source" in given or "image" in given
    if config is None and not has_content and Path(CONFIG_NAME).is_file():
        config = Path(CONFIG_NAME)
    if config is not None:
        entry = Config.load(config, environment).only(name).changed(given, regions)
        site = Site.load(site_dir)
        wanted = entry.wanted(site)
        say("Deploying function...")
        result = place(site, wanted, entry.triggers(), check=dryrun, on_progress=say)
        _tell(name, result, dryrun)
        return
    if environment is not None:
        raise click.UsageError("--environment needs --config, or a faas.yaml here.")
    missing = [flag for flag, key in _NEEDED.items() if key not in given]
    if given.get("runtime") == IMAGE:
        missing = [] if has_content else ["--image or --from-archive"]
    if missing:
        raise click.UsageError(f"A function needs {missing[0]}, or a {CONFIG_NAME} that describes it.")
    spec = Function(name=name, **given)
    site = Site.load(site_dir)
    say("Deploying function...")
    result = deployment.deploy(site, spec, regions, check=dryrun, on_progress=say)
    _tell(name, result, dryrun)


@function.command(
    epilog=example(
        "faas function update hello --memory 512Mi --region seoul",
        "faas function update hello --priority high --delay 30s",
    )
)
@FUNCTION
@_function_options
@click.pass_obj
def update(
    site_dir: Path, /, name: str, regions: tuple[str, ...], dryrun: bool, **options: Any
) -> None:
    """Change a function where it is deployed. Options that are not given stay as they are."""
    given = _given(options)
    if not given:
        raise click.UsageError("Nothing to change: give at least one flag.")
    site = Site.load(site_dir)
    say("Redeploying function...")
    result = deployment.update(site, name, given, regions, check=dryrun, on_progress=say)
    _tell(name, result, dryrun)


@click.command("ls", epilog=example("faas function ls", "faas function ls hello -o wide"))
@FUNCTIONS
@REGION
@LIST_OUTPUT
@click.pass_obj
def list_functions(
    site_dir: Path, names: tuple[str, ...], regions: tuple[str, ...], out: str | None
) -> None:
    """List functions. Without --region, of all regions."""
    with patience("the regions"):
        found = deployment.ls(Site.load(site_dir), names, regions, judged=True)
    tell_list(
        dicts(found.all),
        out,
        lambda wide: show.listing(found.functions, found.refused, wide=wide),
    )
    for one in found.all:
        if one.problem:
            say(f"Warning: {one.region}: Deployment {one.name} is refused: {one.problem}")
    _tell_unjudged(found)
    _missing(names, {one.name for one in found.all})
    warn(found.unreachable)


function.add_command(list_functions)
function.add_command(list_functions, "list")


def _tell_unjudged(found: deployment.Listing) -> None:
    for error in found.unjudged.values():
        say(f"Warning: Deployments that the gateway refuses are not shown: {error}")


def _missing(names: Collection[str], found: Collection[str]) -> None:
    missing = sorted(set(names) - set(found))
    if missing:
        raise click.ClickException(f"Error listing function {', '.join(missing)}: not found")


@click.command("top", epilog=example("faas function top -f hello"))
@click.option("-f", "--function", "names", multiple=True, help="Function; default all.")
@REGION
@LIST_OUTPUT
@click.pass_obj
def show_usage(
    site_dir: Path, names: tuple[str, ...], regions: tuple[str, ...], out: str | None
) -> None:
    """Display function metrics. They count from the start of each region's gateway."""
    with patience("the regions"):
        found, unreachable = usage(Site.load(site_dir), names, regions)
    tell_list(dicts(found), out, lambda wide: show.usage(found, wide=wide))
    _missing(names, {one.name for one in found})
    warn(unreachable)


function.add_command(show_usage)
function.add_command(show_usage, "stats")


@function.command(epilog=example("faas function describe hello"))
@FUNCTION
@REGION
@OUTPUT
@click.pass_obj
def describe(site_dir: Path, name: str, regions: tuple[str, ...], out: str | None) -> None:
    """Show a function in detail, with all that starts it, in each region that has it."""
    site = Site.load(site_dir)
    with patience("the regions"):
        found = deployment.described(site, name, regions)
        started_by, unreachable = triggers.of(site, name, regions)
    _tell_unjudged(found)
    warn(unreachable)
    ends = {
        one.region: endings(Kube(site.regions[one.region], site.kubeconfig), name)
        for one in found.functions
    }
    its = {one.region: [trigger for trigger in started_by if trigger.region == one.region] for one in found.functions}
    if out:
        functions = [
            one.as_dict()
            | {"triggers": [trigger.as_dict() for trigger in its[one.region]]}
            | {"ended": [ending.as_dict() for ending in ends[one.region]]}
            for one in found.functions
        ]
        click.echo(show.plain([*functions, *(one.as_dict() for one in found.refused)], out))
        return
    parts = [show.description(one, its[one.region], ends[one.region]) for one in found.functions]
    click.echo("\n\n".join([*parts, *(show.refusal(one) for one in found.refused)]))


@function.command(
    "call", epilog=example("faas function call hello --region seoul --data '{\"who\": \"you\"}'")
)
@FUNCTION
@click.option("--region", shell_complete=complete_region, help="Region to call it in; required if several have it.")
@click.option("-d", "--data", help="The event's data: JSON, or text if it is no JSON.")
@click.option(
    "--no-wait",
    is_flag=True,
    help="Return as soon as the region has the event; a failure is then retried as for any event.",
)
@click.pass_obj
def call_function(
    site_dir: Path, name: str, region: str | None, data: str | None, no_wait: bool
) -> None:
    """Call a function and print its result. A call that fails is not tried again."""
    site = Site.load(site_dir)
    if region is None:
        places = [one.region for one in deployment.placed(site, name)]
        if len(places) > 1:
            raise click.UsageError(
                f"{name} is in {', '.join(places)}: name one of them with --region."
            )
        region = places[0]
    (there,) = site.pick([region])
    with patience(f"{name} in {region}"):
        result = call(site, name, there, _data(data), wait=not no_wait)
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


def _span(since: str | None, until: str | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    begin, end = (moment(text, now) if text else None for text in (since, until))
    if begin is not None and begin >= (end or now):
        raise click.BadParameter("it must be before --until, and before now", param_hint="--since")
    return begin, end


_UNTIL = click.option("--until", metavar="T", help="Until when: a span before now, or a time.  [default: now]")


@function.command(epilog=example("faas function history hello --since 2h", "faas function history hello -o json"))
@FUNCTION
@click.option("--since", metavar="T", help="From when on: 30m, 2d, or a time.  [default: all]")
@_UNTIL
@LIMIT
@ALL
@REGION
@LIST_OUTPUT
@click.pass_obj
def history(
    site_dir: Path,
    name: str,
    since: str | None,
    until: str | None,
    limit: int,
    everything: bool,
    regions: tuple[str, ...],
    out: str | None,
) -> None:
    """List events that a function has handled, as far as its --history keeps them. Calls are not among them."""
    begin, end = _span(since, until, datetime.now(UTC))
    with patience("the regions"):
        found = handled.history(
            Site.load(site_dir), name, regions, since=begin, until=end, limit=None if everything else limit
        )
    tell_list(dicts(found.events), out, lambda wide: show.handled_events(found.events, wide=wide), name="id")
    tell_more(found.more, limit)
    warn(found.unreachable)


@function.command(
    epilog=example(
        "faas function replay hello --since 2h --dry-run",
        "faas function replay hello --since 2026-05-01T13:00Z --until 2026-05-01T14:00Z --region seoul",
    )
)
@FUNCTION
@click.option("--since", required=True, metavar="T", help="Events handled from then on: 30m, 2d, or a time.")
@_UNTIL
@click.option("--subject", help="Only events with this subject.")
@click.option("--dry-run", "--dryrun", is_flag=True, help="Queue nothing; print how many events would be queued.")
@click.option("--request-id", metavar="ID", help="Id of a replay whose answer was lost: what that has queued is not "
              "queued again.")
@REGION
@click.pass_obj
def replay(
    site_dir: Path,
    name: str,
    since: str,
    until: str | None,
    subject: str | None,
    dry_run: bool,
    request_id: str | None,
    regions: tuple[str, ...],
) -> None:
    """Have a function handle again what it handled in a span of time. Without --region, in all regions.

    Only this function gets the events, in their order, with the attribute replayedby.
    """
    now = datetime.now(UTC)
    begin, end = _span(since, until, now)
    assert begin is not None
    with patience("the regions"):
        done = handled.replay(
            Site.load(site_dir),
            name,
            regions,
            since=begin,
            until=end or now,
            request=request_id or str(uuid.uuid4()),
            subject=subject,
            dry_run=dry_run,
        )
    for one in done:
        events = f"{one.events} event{'' if one.events == 1 else 's'}"
        told = "queued before" if one.is_repeat else "would be queued" if dry_run else "queued"
        say(f"{one.region}: {events} {told}")


@function.command(epilog=example("faas function delete hello --region seoul"))
@FUNCTION
@REGION
@DRYRUN
@click.pass_obj
def delete(site_dir: Path, name: str, regions: tuple[str, ...], dryrun: bool) -> None:
    """Delete a function. Without --region, from all regions."""
    site = Site.load(site_dir)
    result = deployment.delete(site, name, regions, check=dryrun, on_progress=say)
    if dryrun:
        click.echo(show.diff(result.diff) or "Nothing would change")
    elif not result.changed:
        place = ", ".join(regions) or f"any region of site {site.name}"
        raise click.ClickException(f"function {name!r} is not in {place}")


@function.command("logs", epilog=example("faas function logs hello -f"))
@FUNCTION
@REGION
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines, also of new pods.")
@click.pass_obj
def show_logs(site_dir: Path, name: str, regions: tuple[str, ...], follow: bool) -> None:
    """Show the logs of a function's pods. This includes pods that have ended."""
    site = Site.load(site_dir)
    empty = True
    for line in logs(site, name, regions, follow=follow, on_progress=say):
        empty = False
        click.echo(f"{line.region}/{line.pod}: {show.printable(line.text, lines=True)}")
    if empty:
        say(f"{name} is idle, and no log of earlier pods is kept")
    for one in deployment.placed(site, name, regions):
        for ending in endings(Kube(site.regions[one.region], site.kubeconfig), name):
            say(f"{ending.region}/{ending.pod} ended at {ending.time}: {ending.why}")
