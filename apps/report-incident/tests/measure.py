"""Measures what the function adds to an event's way: its imports, and a post with a photo.

    PYTHONPATH=apps/report-incident:apps/runtime/src python apps/report-incident/tests/measure.py

Imports are timed as in a pod: compiled, without the site module.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import handler
from conftest import JPEG, make_event
from doubles.gateway import StateDouble
from doubles.tls import Front
from social_server import SocialServer, find_or_build

_IMPORT = """
import sys, time
sys.path[:0] = {path}
wall, cpu = time.perf_counter(), time.process_time()
import handler, {provider}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def main() -> None:
    for provider in ("bluesky", "mastodon", "twitter"):
        report(f"import of handler and {provider}", imports(provider, runs=15))
    with tempfile.TemporaryDirectory() as name:
        report("post with a photo of 400 kB", posts(Path(name), runs=30))


def report(what: str, took_s: list[float]) -> None:
    ordered = sorted(took_s)
    print(f"{what}: median {statistics.median(ordered) * 1e3:.0f} ms,", end=" ")
    print(f"least {ordered[0] * 1e3:.0f}, most {ordered[-1] * 1e3:.0f}, of {len(ordered)}")


def imports(provider: str, runs: int) -> list[float]:
    path = [p for p in sys.path if p.endswith(("report-incident", "runtime/src", "site-packages"))]
    code = _IMPORT.format(path=path, provider=provider)
    took = []
    for _ in range(runs + 1):
        run = subprocess.run(
            ["/usr/bin/python3.11", "-I", "-S", "-c", code], capture_output=True, check=True
        )
        took.append(float(run.stdout.split()[0]))
    return took[1:]  # the first one compiles


def posts(folder: Path, runs: int) -> list[float]:
    tree, secret = folder / "tree", folder / "secret"
    tree.mkdir()
    secret.mkdir()
    subprocess.run(
        ["tar", "--extract", "--file", find_or_build(folder), "--directory", tree], check=True
    )
    server = SocialServer(tree, folder / "data")
    try:
        server.start()
        account = server.create_account("seoul.koren.test")
        with Front(folder, server.port) as front, StateDouble() as state:
            (folder / "token").write_text("a-token")
            (secret / "provider").write_text("bluesky")
            (secret / "url").write_text(front.url)
            (secret / "handle").write_text(account.handle)
            (secret / "password").write_text(account.password)
            (secret / "ca.crt").write_text(front.authority.read_text())
            os.environ |= {
                "SNS_SECRET": str(secret),
                "KOREN_GATEWAY": f"127.0.0.1:{state.port}",
                "KOREN_TOKEN": str(folder / "token"),
            }
            return [post(number) for number in range(runs)]
    finally:
        server.kill()


def post(number: int) -> float:
    event = make_event(subject=f"measured-{number}", jpeg=JPEG + os.urandom(350_000))
    start = time.perf_counter()
    handler.handler(event, {})
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
