"""A function's pod on this machine: the same program in a process of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import koren_runtime
from koren_runtime.local.gateway import Gateway, Outcome
from koren_runtime.local.state import LocalError, State

_START = Path(koren_runtime.__file__).with_name("start.py")
_NODE = Path(koren_runtime.__file__).with_name("node")
_END_TIMEOUT_S = 5.0
# Gives the function its secrets where a region has them, in a name space of its own: nothing of
# this machine changes. Arguments: the secrets, an empty folder, and the command.
_WITH_SECRETS = """\
set -e
secrets=$1 run=$2
shift 2
if [ ! -d /run/secrets ]; then
  mount --rbind /run "$run"
  mount -t tmpfs -o mode=755 tmpfs /run
  for entry in "$run"/*; do ln -s "$entry" /run/; done
  mkdir /run/secrets
fi
mount --bind "$secrets" /run/secrets
exec "$@"
"""


def node_worker(node: str) -> list[str]:
    """The command of the worker of functions in JavaScript, by this program of Node.js.

    A module is found where the function's folder is laid out, not where its file really is.
    """
    return [node, "--preserve-symlinks", str(_NODE / "worker.js")]


def node_options() -> str:
    """Options of Node.js, by which tests of such functions find modules as the worker does."""
    return f"--preserve-symlinks --preserve-symlinks-main --require={_NODE / 'resolve.js'}"


class Pod:
    """Runs the handler of a folder that is laid out as an image is, event by event.

    A context manager. The pod starts with it and ends with it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        handler: str,
        shown: Path | None = None,
        packages: Path | None = None,
        python: str = sys.executable,
        program: Sequence[str] = (),
        state: State | None = None,
        secrets: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 180,
        runtime: str = "python{}.{}".format(*sys.version_info[:2]),
        memory: str = "256Mi",
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`folder` has the function's files, which the log calls `shown`, `packages` what its requirements install.

        `python` runs the runtime, and the function if that is in Python; `program` is the command of the worker
        of another language (see `node_worker`).
        `secrets` is a folder with a folder for each secret; the function finds them below
        `/run/secrets`. `env` are its own variables, beside which it gets `PATH` and `HOME` alone.
        `on_line` gets each line of its log, from another thread.
        """
        self.state = State() if state is None else state
        self._folder = folder.absolute()
        self._shown = str((shown or folder).absolute())
        self._packages = packages
        self._secrets = secrets
        self._python = python
        self._program = program
        self._on_line = on_line
        module, _, entry = handler.rpartition(".")
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._variables = {
            **kept,
            **(env or {}),
            "MOD_NAME": module,
            "FUNC_HANDLER": entry,
            "FUNC_TIMEOUT": str(timeout_s),
            "FUNC_RUNTIME": runtime,
            "FUNC_MEMORY_LIMIT": memory,
        }
        self._gateway: Gateway | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._laid_out = ""
        self._scratch = contextlib.ExitStack()

    def __enter__(self) -> "Pod":
        """Raises LocalError when the secrets can't be placed."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts it. Raises LocalError when the secrets can't be placed."""
        scratch = Path(self._scratch.enter_context(tempfile.TemporaryDirectory(prefix="koren-pod-")))
        self._gateway = Gateway(self.state)
        (scratch / "token").touch(0o600)
        (scratch / "token").write_text(self._gateway.token)
        variables = {
            **self._variables,
            "KOREN_GATEWAY": f"127.0.0.1:{self._gateway.port}",
            "KOREN_TOKEN": str(scratch / "token"),
            "KOREN_FUNCTION_FOLDER": str(self._lay_out(scratch / "function")),
        }
        command = [self._python, "-I", "-S", str(_START), *self._program]
        if self._secrets is not None:
            (scratch / "run").mkdir()
            command = [*_namespace(), "sh", "-c", _WITH_SECRETS, "sh"] + [
                str(self._secrets.absolute()),
                str(scratch / "run"),
                *command,
            ]
        self._process = subprocess.Popen(
            command,
            env=variables,
            cwd=variables["KOREN_FUNCTION_FOLDER"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._laid_out = variables["KOREN_FUNCTION_FOLDER"]
        gateway, process = self._gateway, self._process
        self._threads = [
            threading.Thread(target=self._listen, args=(process,), daemon=True),
            threading.Thread(target=_await_end, args=(process, gateway), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def call(self, event: dict[str, Any]) -> Outcome:
        """Has the handler called with a CloudEvent. Raises LocalError when the pod has ended."""
        assert self._gateway is not None, "the pod is not started"
        outcome = self._gateway.handle(event)
        if outcome is None:
            raise LocalError("the runtime ended before the event was handled: its log says why")
        return replace(outcome, traceback=self._as_here(outcome.traceback))

    def close(self) -> None:
        """Ends it, with all that the function has started."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                _kill(self._process)
        for thread in self._threads:
            # A process that the function has detached may keep the pipe open.
            thread.join(_END_TIMEOUT_S)
        if self._gateway is not None:
            self._gateway.close()
        self._process, self._gateway, self._threads = None, None, []
        self._scratch.close()

    def _lay_out(self, place: Path) -> Path:
        """The folder as an image has it: the function's files, and what they require beside."""
        if self._packages is None:
            place.symlink_to(self._folder)
            return place
        place.mkdir()
        for entry in self._folder.iterdir():
            (place / entry.name).symlink_to(entry)
        packages = place / ("node_modules" if self._program else "site-packages")
        packages.unlink(missing_ok=True)
        packages.symlink_to(self._packages.absolute())
        return place

    def _as_here(self, text: str) -> str:
        """A text of the function with its own folder's name instead of the one that it is laid out in."""
        return text.replace(self._laid_out, self._shown)

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                self._on_line(self._as_here(line.decode(errors="replace").rstrip("\n")))


def _namespace() -> list[str]:
    if shutil.which("unshare") is None:
        raise LocalError("secrets need the program unshare: install util-linux")
    command = ["unshare", "--mount"] + (["--map-root-user"] if os.geteuid() else [])
    done = subprocess.run([*command, "true"], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise LocalError(
            f"this machine lets no user have mounts of their own ({done.stderr.strip()}), which"
            " secrets need: allow user namespaces, or run this as root"
        )
    return command


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends the runtime amid an event, and the function with it, which in a pod the kernel would end."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.kill()
    process.wait()
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(worker), signal.SIGKILL)


def _await_end(process: "subprocess.Popen[bytes]", gateway: Gateway) -> None:
    process.wait()
    gateway.pod_is_gone()
