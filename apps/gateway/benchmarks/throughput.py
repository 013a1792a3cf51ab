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
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
REPOSITORY = HERE.parents[3]
LOADED, WARMED, OTHERS = "loaded", "warmed", 19
TOPIC = "events/seoul/bench/{}"
EVENT_BYTES = 1024
SUBJECTS = 100
AT_ONCE = 50  # messages that are sent before their acknowledgements are read
STUCK_S = 20


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
        sent = packets(LOADED, events)
        line = {"redis_fsync_per_s": fsyncs(settings), "bare_subscriber_per_s": bare_subscriber(settings, pki, sent)}
        # Anew, for its free ports may have become those of connections by now.
        settings = lab.settings(pki, redis, broker.port)
        with gateway(lab.environment(settings), settings.metrics_port) as process:
            line |= loaded(pki, settings, process, sent)
            line |= warmed(pki, settings, warm)
    finally:
        broker.stop()
        redis.stop()
    return line


def fsyncs(settings: Any, seconds: float = 2.0) -> float:
    """Writes of an event's size that Redis puts on disk one after the other, a second."""
    store = client_of(settings)
    value, count, began = b"x" * EVENT_BYTES, 0, time.monotonic()
    while time.monotonic() - began < seconds:
        store.set("koren:bench", value)
        count += 1
    rate = count / (time.monotonic() - began)
    store.delete("koren:bench")
    store.close()
    return rate


def bare_subscriber(settings: Any, pki: Any, sent: list[bytes]) -> float:
    """Messages a second to a paho client that does nothing but acknowledge each by hand."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id="bare-subscriber", protocol=mqtt.MQTTv5, manual_ack=True
    )
    client.tls_set(str(settings.tls_ca), str(settings.tls_certificate), str(settings.tls_key))
    ready, finished = threading.Event(), threading.Event()
    counted = 0

    def came(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        nonlocal counted
        client.ack(message.mid, message.qos)
        counted += 1
        if counted == len(sent):
            finished.set()

    client.on_connect = lambda *_: client.subscribe(TOPIC.format(LOADED), qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = came
    with publishing(pki, settings, sent) as begin:
        client.connect("localhost", settings.broker_port)
        client.loop_start()
        assert ready.wait(10), "the broker does not answer the bare subscriber"
        began = begin()
        assert finished.wait(STUCK_S + len(sent) / 100), f"{counted} of {len(sent)} messages came"
        took_s = time.monotonic() - began
    client.disconnect()
    client.loop_stop()
    return len(sent) / took_s


def loaded(pki: Any, settings: Any, process: int, sent: list[bytes]) -> dict[str, float]:
    """All events as fast as they go, from being published to being on disk, and what the process takes for it."""
    store = client_of(settings)
    queues: set[bytes] = set()  # a list a subject
    held = [memory(process)]
    with publishing(pki, settings, sent) as begin:
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
            if counted >= len(sent) / 4:
                held.append(memory(process))
            assert time.monotonic() - moved < STUCK_S, f"{counted} of {len(sent)} events are on disk"
        used = processor_s(process) - used
    store.close()
    after_quarter = held[1:]
    return {
        "events_per_s": len(sent) / (moved - began),
        "processor_us_per_event": used / len(sent) * 1e6,
        "rss_start_mib": held[0],
        "rss_end_mib": held[-1],
        "rss_spread_mib": max(after_quarter) - min(after_quarter),
    }


def warmed(pki: Any, settings: Any, count: int) -> dict[str, float]:
    """Milliseconds from an event's being published to its being a waiting pod's."""
    camera = Camera(pki.client_context("operator"), settings.broker_port)
    pod = http.client.HTTPConnection("127.0.0.1", settings.runtime_port, timeout=60)
    token = {"Authorization": f"Bearer pod/{WARMED}/pod-a"}
    times = []
    for packet in packets(WARMED, count + 20):
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


class Camera:
    """An MQTT 3.1.1 client that sends packets made beforehand: it takes little of the processor that is measured."""

    def __init__(self, context: Any, port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        name = f"camera-{os.getpid()}-{time.monotonic_ns()}".encode()
        body = b"\x00\x04MQTT\x04\x02\x00\x00" + text(name)
        self._socket.sendall(b"\x10" + length(len(body)) + body)
        assert self._read(4) == b"\x20\x02\x00\x00", "the broker refuses the publisher"

    def publish(self, sent: Sequence[bytes]) -> None:
        """Sends the packets; returns when the broker has acknowledged them all."""
        for start in range(0, len(sent), AT_ONCE):
            some = sent[start : start + AT_ONCE]
            self._socket.sendall(b"".join(some))
            self._read(4 * len(some))

    def close(self) -> None:
        self._socket.sendall(b"\xe0\x00")
        self._socket.close()

    def _read(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            part = self._socket.recv(count - len(got))
            assert part, "the broker ended the publisher's connection"
            got += part
        return got


def packets(kind: str, count: int) -> list[bytes]:
    """So many PUBLISH packets at QoS 1, each an event of about a KiB, of a hundred incidents."""
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
        body = text(TOPIC.format(kind).encode()) + (number % 65535 + 1).to_bytes(2, "big") + json.dumps(event).encode()
        made.append(b"\x32" + length(len(body)) + body)
    return made


def text(value: bytes) -> bytes:
    """As MQTT writes a string."""
    return len(value).to_bytes(2, "big") + value


def length(value: int) -> bytes:
    """As MQTT writes how much follows."""
    written = bytearray()
    while True:
        value, digit = divmod(value, 128)
        written.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(written)


@contextlib.contextmanager
def publishing(pki: Any, settings: Any, sent: list[bytes]) -> Iterator[Callable[[], float]]:
    """A process that is connected and publishes all once the function is called, which tells when that was."""
    fork = multiprocessing.get_context("fork")
    connected, go = fork.Event(), fork.Event()

    def run() -> None:
        camera = Camera(pki.client_context("operator"), settings.broker_port)
        connected.set()
        go.wait()
        camera.publish(sent)
        camera.close()

    process = fork.Process(target=run, daemon=True)
    process.start()

    def begin() -> float:
        assert connected.wait(10), "the publisher does not reach the broker"
        began = time.monotonic()
        go.set()
        return began

    try:
        yield begin
        process.join(STUCK_S)
        assert process.exitcode == 0, "the publisher did not get through"
    finally:
        process.kill()


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
