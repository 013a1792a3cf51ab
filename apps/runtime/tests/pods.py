"""A function's pod, for the tests of the runtime."""

import contextlib
import os
import subprocess
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import koren_runtime
from koren_runtime.local.double import TOKEN

PYTHON = os.environ.get("KOREN_TEST_PYTHON", "/usr/bin/python3.11")
"""The Python of the pods: that of the runtime python3.11 unless another one is to be tested."""
START = str(Path(koren_runtime.__file__).with_name("start.py"))


class Pod:
    """A function's pod: its folder as an image has it, and its process."""

    def __init__(self, folder: Path, gateway_port: int) -> None:
        self.folder = folder / "function"
        self.token = folder / "token"
        self.log_path = folder / "log"
        self.token.write_text(TOKEN + "\n")
        self.environment = {
            "MOD_NAME": "handler",
            "FUNC_HANDLER": "handle",
            "FUNC_TIMEOUT": "10",
            "FUNC_RUNTIME": "python3.11",
            "FUNC_MEMORY_LIMIT": "128Mi",
            "KOREN_GATEWAY": f"127.0.0.1:{gateway_port}",
            "KOREN_TOKEN": str(self.token),
            "KOREN_FUNCTION_FOLDER": str(self.folder),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, code: str, name: str = "handler.py") -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code))

    def start(self, *within: str, program: Sequence[str] = (), **environment: str) -> None:
        """Starts its process, by the command `within` if there is one; `program` is its worker's."""
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*within, PYTHON, "-I", "-S", START, *program],
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_for_log(self, text: str, timeout_s: float = 10.0) -> None:
        """Until the text is in the log."""
        until = time.monotonic() + timeout_s
        while text not in self.log:
            assert time.monotonic() < until, f"not in the log: {text}\n{self.log}"
            time.sleep(0.01)

    def terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()

    def wait(self, timeout_s: float = 10.0) -> int:
        """The exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        if self._process is None:
            return
        # In a container the worker ends with the first process; here it may be amid a long handler.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        workers = children.read_text().split() if children.exists() else []
        self._process.kill()
        self._process.wait()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(worker), 9)
