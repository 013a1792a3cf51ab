# SPDX-License-Identifier: Apache-2.0
"""The command `faas`: Kubeless's verbs and flags, for the regions of a site."""

from __future__ import annotations

from pathlib import Path

import click

from koren_faas.cli.autoscale import autoscale
from koren_faas.cli.common import DIFFERS, Group, example
from koren_faas.cli.completion import completion
from koren_faas.cli.dlq import dlq
from koren_faas.cli.event import event
from koren_faas.cli.function import function
from koren_faas.cli.http_trigger import http
from koren_faas.cli.incident import incident
from koren_faas.cli.local import init, run, test
from koren_faas.cli.logs import logs
from koren_faas.cli.project import apply, check, diff
from koren_faas.cli.region import region
from koren_faas.cli.source import source
from koren_faas.cli.top import top
from koren_faas.cli.trigger import trigger
from koren_faas.site import default_dir


@click.group(
    cls=Group,
    epilog=f"""\b
Exit codes: 0 done; 1 failed, or a region did not answer; 2 the command is not typed
right; {DIFFERS} 'faas diff' would change something.

{example("faas function ls", "faas --site-dir .state/local function call hello")}""",
)
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


trigger.add_command(http)
for _command in (init, run, test, check, diff, apply):
    main.add_command(_command)
for _command in (function, trigger, source, autoscale, event, dlq, logs, region, top, incident, completion):
    main.add_command(_command)
