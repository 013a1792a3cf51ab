"""From the start of a pod's process to its first question and to its handler, without a cluster.

    python benchmarks/cold_start.py [--pods 100] [--start PATH] [--python PATH]

Each pod is one process against a gateway that has its event at hand. Times are milliseconds from
just before the process is started; `cpu` is what all its processes have used by their end.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pods import PYTHON, START, Pod

from koren_runtime.local.double import GatewayDouble

HANDLERS = {
    "imports nothing": "def handle(event, context): return event['data']",
    "imports json, urllib.request": (
        "import json, urllib.request\ndef handle(event, context): return event['data']"
    ),
}


def measure(code: str, command: list[str]) -> tuple[float, float, float]:
    gateway = GatewayDouble()
    with tempfile.TemporaryDirectory() as folder:
        pod = Pod(Path(folder), gateway.port)
        pod.write(code)
        subprocess.run([PYTHON, "-m", "compileall", "-q", pod.folder], check=True)
        gateway.give({"severity": "minor"})
        began = time.time()
        process = os.posix_spawn(command[0], command, pod.environment)
        try:
            entered = gateway.wait_for("entered")
            gateway.wait_for("response")
        finally:
            os.kill(process, 15)
            _, _, usage = os.wait4(process, 0)
    gateway.close()
    cpu = (usage.ru_utime + usage.ru_stime) * 1000
    return (gateway.nexts[0] - began) * 1000, (entered.at - began) * 1000, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--start", default=START)
    parser.add_argument("--python", default=PYTHON)
    options = parser.parse_args()
    command = [options.python, "-I", "-S", options.start]
    for name, code in HANDLERS.items():
        results = [measure(code, command) for _ in range(options.pods)]
        for label, values in zip(
            ("next", "entered", "cpu"), zip(*results, strict=True), strict=True
        ):
            ordered = sorted(values)
            print(
                f"{name:30} {label:8} min {ordered[0]:6.1f}  p50 {statistics.median(ordered):6.1f}"
                f"  p90 {ordered[len(ordered) * 9 // 10]:6.1f}"
            )


if __name__ == "__main__":
    main()
