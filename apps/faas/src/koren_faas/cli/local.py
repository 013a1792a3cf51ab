# SPDX-License-Identifier: Apache-2.0
"""`faas init`, `run` and `test`: a function on this machine, without a region."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import click

from koren_faas import scaffold
from koren_faas.cli.common import CONFIG, ENVIRONMENT, example, say
from koren_faas.cli.completion import complete_function, complete_region
from koren_faas.config import Config
from koren_faas.errors import BuildError, CallError, ConfigError
from koren_faas.function import Function
from koren_faas.local import Local, laid_out, read_event
from koren_faas.nodejs import PACKAGES
from koren_faas.runtimes import DEFAULT, NODEJS, RUNTIMES

REGION = click.option(
    "--region",
    shell_complete=complete_region,
    help="Region to run it for: what {region} stands for.  [default: the first in the file, else local]",
)

_NO_TESTS = 5  # pytest's exit code


@click.command(epilog=example("faas init hello"))
@click.argument("name")
@click.option("-r", "--runtime", default=DEFAULT, show_default=True, help=f"Runtime: {', '.join(RUNTIMES)}.")
def init(name: str, runtime: str) -> None:
    """Make a folder with a function, its test, a sample event and its faas.yaml."""
    scaffold.make(Path(name), name, runtime)
    say(f"Made {name}. Next:")
    say(f"  cd {name}\n  faas test\n  faas run --event tests/event.json\n  faas apply --region REGION")


@click.command(epilog=example("faas run --event tests/event.json --state state.json"))
@click.argument("name", required=False, shell_complete=complete_function)
@click.option(
    "--event",
    "event_file",
    type=click.File(encoding="utf-8"),
    help="JSON file with a CloudEvent, or with the data of one; - reads standard input.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file that keeps the function's state from run to run. Without it, each run starts with none.",
)
@click.option(
    "--secrets",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with a folder for each secret. The function finds it as /run/secrets.",
)
@REGION
@CONFIG
@ENVIRONMENT
def run(
    name: str | None,
    event_file: IO[str] | None,
    state: Path | None,
    secrets: Path | None,
    region: str | None,
    config: Path,
    environment: str | None,
) -> None:
    """Call a function of faas.yaml on this machine, without a site, and print its result.

    The runtime is the one of the regions. Its log goes to standard error.
    """
    function = Config.load(config, environment).only(name).local(region)
    _demand("koren_runtime", "pip install apps/runtime")
    from koren_runtime.local import LocalError, Pod, State, new_event, node_worker

    event = read_event(event_file.name, event_file.read()) if event_file else new_event()
    try:
        with (
            laid_out(function, say) as local,
            Pod(
                local.folder,
                handler=function.handler,
                shown=local.shown,
                packages=local.packages,
                python=local.python,
                program=node_worker(local.node) if local.node else (),
                state=State(state),
                secrets=secrets,
                env=function.env,
                timeout_s=function.timeout_s,
                runtime=function.runtime,
                memory=function.memory,
                on_line=say,
            ) as pod,
        ):
            outcome = pod.call(event)
    except LocalError as error:
        raise ConfigError(str(error)) from error
    if outcome.error is None:
        result = outcome.result
        click.echo(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
        return
    follows = ""
    if outcome.rejected:
        follows = "; in a region this event becomes a dead letter at once"
    elif outcome.retry_after_s is not None:
        follows = f"; in a region it is tried again after {outcome.retry_after_s:g} s"
    raise CallError(f"{function.name} failed: {outcome.error}: {outcome.message}{follows}")


@click.command(
    epilog=example("faas test hello -- -k picture"),
    context_settings={"ignore_unknown_options": True},
)
@click.argument("name", required=False, shell_complete=complete_function)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@REGION
@CONFIG
@ENVIRONMENT
def test(
    name: str | None,
    arguments: tuple[str, ...],
    region: str | None,
    config: Path,
    environment: str | None,
) -> None:
    """Run the tests of the functions of faas.yaml, or of NAME, with the fixtures for functions.

    Tests are in the folder tests beside the code, or beside faas.yaml: for pytest, or of a function in JavaScript
    for Node.js, named *.test.js. What follows -- goes to pytest, or to node --test.
    """
    found = Config.load(config, environment)
    if name is not None and name.startswith("-"):
        arguments, name = (name, *arguments), None
    _demand("koren_runtime", "pip install apps/runtime")
    failed = []
    for entry in found.pick([name] if name else ()):
        function = entry.local(region)
        assert function.source is not None
        places = (function.source / "tests", config.parent / "tests")
        tests = next((place for place in places if place.is_dir()), None)
        if tests is None:
            say(f"{entry.name} has no tests: put them into {places[not function.source.is_dir()]}")
            continue
        with laid_out(function, say) as local:
            javascript = RUNTIMES[function.runtime].language == NODEJS
            code = (_node_test if javascript else _pytest)(function, local, tests, arguments)
        if code == _NO_TESTS and not javascript:
            say(f"{entry.name}: no test was selected; look at the arguments after --")
        if code != 0:
            failed.append(entry.name)
    if failed:
        raise click.ClickException(f"tests failed: {', '.join(failed)}")


def _pytest(
    function: Function, local: Local, tests: Path, arguments: tuple[str, ...]
) -> int:
    _demand("pytest", "pip install pytest")
    command = [local.python, "-m", "pytest", "-p", "koren_runtime.testing"]
    command += [f"--rootdir={tests.parent.absolute()}", f"--koren-folder={local.folder.absolute()}"]
    command += [f"--koren-handler={function.handler}", f"--koren-timeout={function.timeout_s}"]
    command += [f"--koren-env={key}={value}" for key, value in function.env.items()]
    paths = [str(local.folder.absolute())]
    if local.packages is not None:
        command.append(f"--koren-packages={local.packages}")
        paths.append(str(local.packages))
    return subprocess.run(
        [*command, *arguments, str(tests.absolute())],
        check=False,
        cwd=tests.parent,
        env=_environment(paths),
    ).returncode


def _node_test(
    function: Function, local: Local, tests: Path, arguments: tuple[str, ...]
) -> int:
    from koren_runtime.local import State, node_options, serving

    assert local.node is not None
    with tempfile.TemporaryDirectory(prefix="koren-faas-") as scratch, serving(State()) as variables:
        for entry in tests.parent.absolute().iterdir():
            if local.packages is None or entry.name != PACKAGES:
                (Path(scratch) / entry.name).symlink_to(entry)
        if local.packages is not None:
            (Path(scratch) / PACKAGES).symlink_to(local.packages)
        files = sorted(str(file) for file in (Path(scratch) / tests.name).rglob("*.test.*js"))
        if not files:
            say(f"{function.name} has no tests in {tests}: name them *.test.js")
            return 0
        return subprocess.run(
            [local.node, "--test", *arguments, *files],
            check=False,
            cwd=scratch,
            env={**os.environ, **function.env, **variables, "NODE_OPTIONS": node_options()},
        ).returncode


def _environment(paths: list[str]) -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*paths, before] if before else paths)
    return {**os.environ, "PYTHONPATH": path}


def _demand(module: str, remedy: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise BuildError(f"this command needs the package {module}, which is not installed: {remedy}")
