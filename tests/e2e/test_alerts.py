# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on a running site rings at a receiver: nine faults, caused for real."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from conftest import SITE_DIR, TESTED, Publish, ask_centre, cut_off, drill, faas, on_host, until

from koren_events import Publisher, ReceiptState

pytestmark = pytest.mark.long

FUNCTION = "e2e-alerts"
KIND = "kr.koren.test.alarm.rung"
WORK_S = 20
PODS = 2
# A warning waits up to a minute at first, and five for the next message about its region.
WARNING_S = 900
CRITICAL_S = 420


class Told(list[dict[str, Any]]):
    """Every alert that the receiver was told, with its status."""

    def of(self, name: str, status: str = "firing", **labels: str) -> list[dict[str, Any]]:
        """Those with a name, a status and labels."""
        return [
            one
            for one in list(self)
            if (one["labels"]["alertname"], one["status"]) == (name, status) and labels.items() <= one["labels"].items()
        ]


def alertmanager(site: dict[str, Any], path: str) -> Any:
    """What the centre's Alertmanager answers."""
    return ask_centre(site, 9093, path)


@pytest.fixture(scope="module")
def told(site: dict[str, Any]) -> Iterator[Told]:
    """What the site's webhook without TLS is told: this is it."""
    settings = yaml.safe_load(alertmanager(site, "/api/v2/status")["config"]["original"])
    urls = [hook["url"] for one in settings["receivers"] for hook in one.get("webhook_configs", ())]
    plain = [url for url in urls if url.startswith("http://")]
    if not plain:
        pytest.fail(f"the site sends no alerts to this machine; {TESTED}")
    heard = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    where = urlsplit(plain[0])
    server = ThreadingHTTPServer((str(where.hostname), where.port or 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield heard
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def busy() -> Iterator[str]:
    """A function that has more to do than its pods can, once there are events; taken away with them in the end."""
    faas(
        *("function", "deploy", FUNCTION, "--from-file", str(Path(__file__).parent / "probe")),
        *("--handler", "handler.handler", "--runtime", "python3.11", "--max-scale", str(PODS), "--region", "seoul"),
        *("--topic", "events/{region}/+/alarm"),
    )
    yield FUNCTION
    faas("function", "delete", FUNCTION)
    faas("dlq", "purge", "--region", "seoul", "--function", FUNCTION)


@contextlib.contextmanager
def load(publisher: Publisher) -> Iterator[None]:
    """Meanwhile an incident a second, of which the function can do one in ten, after thirty at once."""
    ended = threading.Event()

    def run() -> None:
        for number in range(100_000):
            publisher.publish(drill("seoul", type=KIND, do="note", work_s=WORK_S))
            if number > 30 and ended.wait(1):
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def stopped(host: str, service: str) -> Iterator[None]:
    """Meanwhile a service of a host is down."""
    on_host(host, "systemctl", "stop", service)
    try:
        yield
    finally:
        on_host(host, "systemctl", "start", service)


@contextlib.contextmanager
def refused(host: str, peer: str, port: int) -> Iterator[None]:
    """Meanwhile nothing of a peer's comes to a port of a host."""
    rule = f"ip saddr {peer} tcp dport {port} drop;"
    on_host(
        host, "nft", f"table inet koren_e2e_port {{ chain cut {{ type filter hook input priority -10; {rule} }}; }}"
    )
    try:
        yield
    finally:
        on_host(host, "nft", "delete", "table", "inet", "koren_e2e_port")


def used_memory(site: dict[str, Any], region: str) -> int:
    """Bytes that a region's Redis uses; 0 while it does not answer."""
    with redis.Redis(
        host=site["regions"][region]["broker"],
        username="gateway",
        password=(SITE_DIR / "secrets" / f"redis-{region}").read_text().strip(),
        ssl=True,
        ssl_ca_certs=str(SITE_DIR / "pki" / "ca.crt"),
    ) as client:
        try:
            return int(client.info("memory")["used_memory"])  # type: ignore[index]
        except redis.RedisError:
            return 0


@contextlib.contextmanager
def scarce_memory(site: dict[str, Any], region: str) -> Iterator[None]:
    """Meanwhile a region's Redis may have little more than it uses."""
    host, file = f"{region}-cp", "/etc/redis/redis.conf"
    # What it has used so far and needs no more is gone after a start.
    on_host(host, "systemctl", "restart", "redis-server")
    used = until("Redis is back", lambda: used_memory(site, region), 60)
    on_host(host, "cp", "--preserve", file, f"{file}.e2e")
    on_host(host, "sed", "--in-place", f"s/^maxmemory .*/maxmemory {used + used // 19}/", file)
    on_host(host, "systemctl", "restart", "redis-server")
    try:
        yield
    finally:
        on_host(host, "mv", f"{file}.e2e", file)
        on_host(host, "systemctl", "restart", "redis-server")


def test_faults_of_two_regions_ring_and_a_region_that_is_cut_off_rings_once(
    site: dict[str, Any], told: Told, busy: str, publish_at: Publish
) -> None:
    publisher = publish_at(site["regions"]["seoul"]["broker"])
    centre = site["central_broker"].rpartition(":")[0]
    given_up = drill("seoul", type=KIND, do="fail", times=99)
    publisher.publish(given_up)
    assert list(publisher.receipts(given_up, timeout_s=300))[-1].state is ReceiptState.DEAD_LETTERED
    before = len(told)
    expected: list[tuple[str, dict[str, str], int]] = [
        ("RegionUnreachable", {"region": "busan"}, CRITICAL_S),
        ("NodeNotReady", {"instance": "seoul-w1"}, CRITICAL_S),
        ("DeadLetters", {"region": "seoul"}, WARNING_S),
        ("BridgeDown", {"region": "seoul", "sensor": "bridge.central.seoul"}, WARNING_S),
        ("CameraSilent", {"region": "seoul"}, WARNING_S),
        ("QueueGrowing", {"region": "seoul", "function": busy}, WARNING_S),
        ("FunctionAtItsMaximum", {"region": "seoul", "function": busy}, WARNING_S),
    ]
    with contextlib.ExitStack() as faults:
        faults.enter_context(cut_off("busan"))
        faults.enter_context(stopped("seoul-w1", "kubelet"))
        faults.enter_context(stopped("cctv-1", "cctv"))
        faults.enter_context(refused("seoul-cp", centre, 8883))
        faults.enter_context(load(publisher))
        for name, labels, within_s in expected:
            until(f"{name} rings", lambda name=name, labels=labels: told.of(name, **labels), within_s)
        # Long enough for all that would have rung of it: its hosts, the bridge to it, its services.
        of_busan = [one["labels"]["alertname"] for one in told[before:] if one["labels"].get("region") == "busan"]
        assert set(of_busan) == {"RegionUnreachable"}
        assert len({one["startsAt"] for one in told.of("RegionUnreachable", region="busan")}) == 1
        muted = [one for one in alertmanager(site, "/api/v2/alerts") if one["labels"].get("region") == "busan"]
        assert "NodeNotReady" in {one["labels"]["alertname"] for one in muted}
        summary = told.of("NodeNotReady", instance="seoul-w1")[0]["annotations"]["summary"]
        assert "seoul-w1 (seoul)" in summary
    until("Busan is back", lambda: told.of("RegionUnreachable", "resolved", region="busan"), CRITICAL_S)
    until("the node is back", lambda: told.of("NodeNotReady", "resolved", instance="seoul-w1"), CRITICAL_S)


def test_a_broker_that_is_down_and_scarce_memory_ring(site: dict[str, Any], told: Told) -> None:
    def quiet() -> bool:
        rings = [one["labels"] for one in alertmanager(site, "/api/v2/alerts")]
        after_a_cut = {"RegionUnreachable", "NodeNotReady", "BridgeDown"}
        return not any(one.get("region") == "busan" and one["alertname"] in after_a_cut for one in rings)

    until("nothing is left of Busan's cut", quiet, CRITICAL_S)
    with scarce_memory(site, "busan"), stopped("busan-cp", "mosquitto"):
        until("the memory rings", lambda: told.of("QueueMemoryLow", region="busan"), CRITICAL_S)
        until("the broker rings", lambda: told.of("BrokerUnknown", region="busan"), CRITICAL_S)
        # It follows from it.
        assert not told.of("EventsNotTakenIn", region="busan")
    until("the broker is back", lambda: told.of("BrokerUnknown", "resolved", region="busan"), CRITICAL_S)
    until("there is memory again", lambda: told.of("QueueMemoryLow", "resolved", region="busan"), CRITICAL_S)
