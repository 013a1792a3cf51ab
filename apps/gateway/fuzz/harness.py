"""What the coverage-guided searches of this folder share.

Each `fuzz_<what>.py` has a folder `fuzz_<what>` beside it with inputs to begin with. It is run as

    python fuzz/fuzz_<what>.py -max_total_time=60 NEW fuzz/fuzz_<what>

where NEW is an empty folder for what the search finds (without it that goes into the folder of the
repository), and the options are libFuzzer's; `-runs=0` only tries the inputs that are there. pytest runs
each for `KOREN_FUZZ_S` seconds (60 unless given): `python -m pytest -o python_files='fuzz_*.py' fuzz`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main(one: Callable[[bytes], None]) -> None:
    """Searches by the command line's options."""
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


def search(program: str, found: Path) -> None:
    """Runs the search of a file as a process; raises AssertionError with its output's end."""
    seconds = os.environ.get("KOREN_FUZZ_S", "60")
    corpus = Path(program).with_suffix("")
    ended = subprocess.run(
        [sys.executable, program, f"-max_total_time={seconds}", f"-artifact_prefix={found}/", "-timeout=20"]
        + [str(found), str(corpus)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
