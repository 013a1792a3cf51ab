# SPDX-License-Identifier: Apache-2.0
"""`faas logs`: what all hosts and pods of the site wrote, from the centre."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from koren_faas import show
from koren_faas.cli.common import REGION, example, say
from koren_faas.cli.completion import complete_function
from koren_faas.search import Entry, Search, Store, moment
from koren_faas.site import Site
from koren_faas.terminal import patience


@click.command(
    epilog=example("faas logs --function hello --since 2h", "faas logs --incident SUBJECT -o json")
)
@click.option(
    "--event",
    metavar="ID",
    help="Only lines of this event. ID is the id of the CloudEvent: 'faas dlq show' and 'faas event held' call it "
    "Event id, and a function's log has it in brackets.",
)
@click.option(
    "--incident",
    metavar="SUBJECT",
    help="Only lines of this incident and its events. SUBJECT is their subject, which 'faas incident ls' calls ID.",
)
@click.option(
    "--function",
    metavar="NAME",
    shell_complete=complete_function,
    help="Only lines about or of this function.",
)
@REGION
@click.option("--host", help="Only lines of this host.")
@click.option("--text", help="Only lines with this in their message, in letters of any case.")
@click.option("--since", default="1h", show_default=True, help="From when on: 30m, 2d, or a time.")
@click.option("--until", help="Until when: a span before now, or a time.")
@click.option("-f", "--follow", is_flag=True, help="Go on with lines that come, until interrupted.")
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=100_000),
    default=1000,
    show_default=True,
    help="Show at most this many, the newest.",
)
@click.option(
    "--certificate",
    default="operator",
    show_default=True,
    help="Name of the certificate in the site's folder pki to ask with.",
)
@click.option("-o", "--out", type=click.Choice(["json"]), help="One JSON object a line.")
@click.pass_obj
def logs(
    site_dir: Path,
    event: str | None,
    incident: str | None,
    function: str | None,
    regions: tuple[str, ...],
    host: str | None,
    text: str | None,
    since: str,
    until: str | None,
    follow: bool,
    limit: int,
    certificate: str,
    out: str | None,
) -> None:
    """Search the logs of all hosts and pods. A region that is cut off has its lines here once it is back."""
    site = Site.load(site_dir)
    if regions:
        site.pick(regions)
    now = datetime.now(UTC)
    begin, end = moment(since, now), moment(until, now) if until else now
    if begin >= end:
        raise click.BadParameter("it must be before --until", param_hint="--since")
    if follow and until:
        raise click.UsageError("--follow has no end: leave out --until")
    search = Search(event, incident, function, regions, host, text)
    store = Store(site, certificate)
    if follow:
        for entry in store.follow(search, begin, limit):
            click.echo(_shown(entry, out))
        return
    with patience("the centre's store of logs"):
        entries, more = store.find(search, begin, end, limit)
    for entry in entries:
        click.echo(_shown(entry, out))
    if more:
        say(f"There are more than {limit} lines: show them with --limit, or narrow the search")


def _shown(entry: Entry, out: str | None) -> str:
    if out:
        return json.dumps(
            {"time": entry.time, "text": entry.text, **entry.fields}, ensure_ascii=False
        )
    time = datetime.fromisoformat(entry.time).isoformat(timespec="milliseconds")
    text = show.printable(entry.text.rstrip("\n").replace("\n", "\n  "), lines=True)
    place = show.printable(f"{entry.fields.get('region', '-')} {entry.origin}")
    return f"{time.replace('+00:00', 'Z')} {place} {text}"
