"""Events a second through one gateway with 21 functions, beside what the machine gives in the same run.

    python benchmarks/throughput.py [--events 20000] [--rounds 3] [--warm 500] [--before PATH]

Needs no site: starts Debian's redis-server (every write on disk before its answer) and mosquitto (TLS, a certificate a
client) and the gateway as a process, as the tests' lab does. `--before` names another checkout of this repository,
which is measured by turns with this one. The last line is JSON: the median of each figure over the rounds, and those of
`--before` under `before`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loading import STUCK_S, Broker, Camera, bare_subscriber, fsyncs, packets, publishing

HERE = Path(__file__).resolve()
REPOSITORY = HERE.parents[3]
LOADED, WARMED, OTHERS = "loaded", "warmed", 19
TOPIC = "events/seoul/bench/{}"
EVENT_BYTES = 1024
SUBJECTS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, help="of 1 KiB, under load")
    parser.add_argument("--warm", type=int, default=500, help="one at a time, to a pod that waits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another checkout, measured by turns")
    parser.add_argument("--folder", type=Path, help="where Redis and Mosquitto write; below the temporary folder")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--gateway", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gateway:
        run_gateway()
    elif options.once:
        print(json.dumps(measure(options.events, options.warm, options.folder)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measures the checkouts by turns, each in processes that import its own packages."""
    trees = {"": REPOSITORY} | ({"before": options.before.resolve()} if options.before else {})
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for number in range(options.rounds):
        turn = list(trees.items())
        for name, tree in turn if number % 2 else reversed(turn):
            found[name].append(one_round(tree, options))
            print(f"{name or 'this':6} {json.dumps(found[name][-1])}", file=sys.stderr)
    line: dict[str, Any] = medians(found[""])
    if options.before:
        line["before"] = medians(found["before"])
        line["times_before"] = round(line["events_per_s"] / line["before"]["events_per_s"], 2)
    print(json.dumps(line))


def one_round(tree: Path, options: argparse.Namespace) -> dict[str, float]:
    apps = tree / "apps"
    places = [apps / "gateway" / "src", apps / "events" / "src", apps / "gateway" / "tests"]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, str(HERE), "--once", "--folder", folder]
        command += ["--events", str(options.events), "--warm", str(options.warm)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
        said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    figures: dict[str, float] = json.loads(said)
    return figures


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    return {name: round(value) if value >= 100 else round(value, 2) for name, value in middle.items()}


def measure(events: int, warm: int, folder: Path) -> dict[str, float]:
    """One round: the machine's figures and the gateway's, on servers that it starts and ends."""
    import gateway_lab as lab

    pki = lab.Pki(folder)
    redis, broker = lab.RedisServer(folder / "redis"), lab.Mosquitto(folder / "mosquitto", pki)
    redis.start()
    broker.start()
    try:
        settings = lab.settings(pki, redis, broker.port)
        cameras = broker_of(settings, *pki.issue("operator"))
        gateways = broker_of(settings, settings.tls_certificate, settings.tls_key)
        sent = messages(LOADED, events)
        store = client_of(settings)
        line = {
            "redis_fsync_per_s": fsyncs(store, EVENT_BYTES),
            "bare_subscriber_per_s": bare_subscriber([cameras], gateways, TOPIC.format(LOADED), sent),
        }
        # Anew, for its free ports may have become those of connections by now.
        settings = lab.settings(pki, redis, broker.port)
        with gateway(lab.environment(settings), settings.metrics_port) as process:
            line |= loaded(cameras, store, process, sent)
            line |= warmed(cameras, settings.runtime_port, warm)
        store.close()
    finally:
        broker.stop()
        redis.stop()
    return line


def loaded(cameras: Broker, store: Any, process: int, sent: list[bytes]) -> dict[str, float]:
    """All events as fast as they go, from being published to being on disk, and what the process takes for it."""
    queues: set[bytes] = set()  # a list a subject
    start = memory(process)
    held: list[list[float]] = [[], [], [], []]  # a list a quarter of the events
    with publishing([cameras], packets(TOPIC.format(LOADED), sent)) as begin:
        used, began = processor_s(process), begin()
        counted, moved = 0, began
        while counted < len(sent):
            time.sleep(0.1)
            if len(queues) < SUBJECTS:
                queues |= set(store.scan_iter(f"koren:*{LOADED}*queue*", count=1000, _type="list"))
            pipe = store.pipeline(transaction=False)
            for queue in queues:
                pipe.llen(queue)
            now = sum(pipe.execute())
            if now != counted:
                counted, moved = now, time.monotonic()
            held[min(3, 4 * counted // len(sent))].append(memory(process))
            assert time.monotonic() - moved < STUCK_S, f"{counted} of {len(sent)} events are on disk"
        used = processor_s(process) - used
    after_first = [figure for quarter in held[1:] for figure in quarter]
    return {
        "events_per_s": len(sent) / (moved - began),
        "processor_us_per_event": used / len(sent) * 1e6,
        "rss_start_mib": start,
        **{f"rss_quarter_{number}_mib": max(quarter, default=0) for number, quarter in enumerate(held, start=1)},
        "rss_spread_mib": max(after_first) - min(after_first),
    }


def warmed(cameras: Broker, port: int, count: int) -> dict[str, float]:
    """Milliseconds from an event's being published to its being a waiting pod's."""
    camera = Camera(cameras)
    pod = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    token = {"Authorization": f"Bearer pod/{WARMED}/pod-a"}
    times = []
    for packet in packets(TOPIC.format(WARMED), messages(WARMED, count + 20)):
        pod.putrequest("GET", "/v1/invocation/next")
        pod.putheader("Authorization", token["Authorization"])
        pod.endheaders()
        time.sleep(0.01)  # it waits by now
        began = time.perf_counter()
        camera.publish([packet])
        answer = pod.getresponse()
        answer.read()
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status == 200, answer.status
        attempt = token | {"Koren-Attempt": answer.headers["Koren-Attempt"]}
        for what in ("entered", "response"):
            pod.request("POST", f"/v1/invocation/{answer.headers['Koren-Invocation-Id']}/{what}", b"{}", attempt)
            told = pod.getresponse()
            told.read()
            assert told.status == 204, f"{what}: {told.status}"
    pod.close()
    camera.close()
    ordered = sorted(times[20:])  # the first ones warm it
    return {f"warm_p{percent}_ms": round(ordered[max(0, -(-count * percent // 100) - 1)], 2) for percent in (50, 99)}


def messages(kind: str, count: int) -> list[bytes]:
    """So many events of about a KiB, of a hundred incidents."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made = []
    for number in range(count):
        event = {
            "specversion": "1.0",
            "id": f"{kind}-{number}",
            "source": "bench",
            "type": "kr.koren.test.bench",
            "subject": f"{kind}-{number % SUBJECTS}",
            "time": now,
            "datacontenttype": "application/json",
            "region": "seoul",
            "sequence": number // SUBJECTS + 1,
            "data": {"filler": ""},
        }
        event["data"] = {"filler": "x" * (EVENT_BYTES - len(json.dumps(event)))}
        made.append(json.dumps(event).encode())
    return made


@contextlib.contextmanager
def gateway(environment: dict[str, str], metrics_port: int) -> Iterator[int]:
    """The gateway as a process, connected to the broker; its process id."""
    command = [sys.executable, str(HERE), "--gateway"]
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not metric(metrics_port, "koren_gateway_intake_connected"):
            assert process.poll() is None, f"the gateway ended with {process.returncode}"
            assert time.monotonic() < deadline, "the gateway does not take events in"
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def run_gateway() -> None:
    """This process is the gateway, with a cluster in memory that has the functions; told by the environment."""
    from gateway_lab import TestCluster, deployment

    from koren_gateway import log
    from koren_gateway.app import Gateway
    from koren_gateway.settings import from_environment

    names = [LOADED, WARMED, *(f"other-{number}" for number in range(OTHERS))]
    functions = [deployment(name, topic=f"events/+/+/{name}") for name in names]
    settings = from_environment()
    log.configure(settings.region, logging.INFO)
    asyncio.run(Gateway(settings, TestCluster(functions=functions)).run())


def metric(port: int, name: str) -> float:
    """The value of a series, 0 without it and while the gateway does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0)


def broker_of(settings: Any, certificate: Path, key: Path) -> Broker:
    """The settings' broker, for a client of that certificate."""
    return Broker(host="localhost", port=settings.broker_port, ca=settings.tls_ca, certificate=certificate, key=key)


def client_of(settings: Any) -> Any:
    """A client of the Redis that the gateway uses, as its user."""
    import redis

    return redis.Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        username=settings.redis_user,
        password=settings.redis_password.get_secret_value(),
    )


def memory(process: int) -> float:
    """MiB that the process holds."""
    fields = Path(f"/proc/{process}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_s(process: int) -> float:
    """Seconds of a processor that the process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
