"""From one event at the centre to a function that was not running, in its region and nowhere else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from conftest import REPORT, Cluster, accident, clear, drill, faas, on_host, until

from koren_events import Publisher, ReceiptState


def test_event_starts_its_region_only_and_ends_at_zero(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher
) -> None:
    seoul, busan = cluster("seoul"), cluster("busan")
    until("no pod before the first event", lambda: not seoul.pods(probe), 60)

    opened = drill("seoul")
    publisher.publish(opened)
    first, *_, last = publisher.receipts(opened, timeout_s=90)
    assert last.state is ReceiptState.SUCCEEDED
    assert last.function == probe
    assert last.result["event"] == opened.id
    assert last.phases["handler_entered"] >= first.phases["durable"]
    assert last.result["pod"] in seoul.pods(probe), "an open incident keeps its pod warm"

    closed = drill("seoul", closes=opened)
    published = time.monotonic()
    publisher.publish(closed)
    closing = list(publisher.receipts(closed, timeout_s=90))[-1]
    assert closing.state is ReceiptState.SUCCEEDED
    assert closing.result["pod"] == last.result["pod"]

    left_s = 15 - (time.monotonic() - published)
    until("the pod is gone 15 s after the incident's end", lambda: not seoul.pods(probe), left_s)
    assert busan.pods_ever(probe) == []


def test_a_pod_that_is_not_wanted_any_more_when_it_starts_is_gone_soon(
    cluster: Callable[[str], Cluster], probe: str
) -> None:
    seoul = cluster("seoul")
    deployment = json.loads(seoul.run("get", "deployment", probe, "-n", "functions", "-o", "json"))
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": deployment["spec"]["template"]["spec"]}
    for number, ms in enumerate(range(250, 500, 50)):
        name = f"e2e-unwanted-{number}"
        # Without the function's label: no Deployment's, and nobody gives it an event.
        pod["metadata"] = {"name": name, "namespace": "functions", "labels": {"e2e": "unwanted"}}
        seoul.run("create", "-f", "-", stdin=json.dumps(pod))
        time.sleep(ms / 1000)
        seoul.run("delete", "pod", name, "-n", "functions", "--wait=false")
    left = ("get", "pods", "-n", "functions", "-l", "e2e=unwanted", "-o", "name")
    # Its grace period is longer than a handler may take.
    until("none of them is left", lambda: not seoul.run(*left), 30)


def test_gateway_killed_between_event_and_pod_gives_one_post(
    cluster: Callable[[str], Cluster], publisher: Publisher
) -> None:
    seoul = cluster("seoul")
    until("no pod before the event", lambda: not seoul.pods(REPORT), 90)
    detected = accident("seoul")
    publisher.publish(detected)
    publisher.wait(detected, timeout_s=30)
    gateway = ("-n", "koren-faas", "-l", "app.kubernetes.io/name=gateway")
    seoul.run("delete", "pod", *gateway, "--grace-period=0", "--force")

    receipts = list(publisher.receipts(detected, timeout_s=180))
    assert [r.state for r in receipts].count(ReceiptState.SUCCEEDED) == 1
    assert clear(publisher, detected) == receipts[-1].result["uri"]
    until("the pod is gone after the incident", lambda: not seoul.pods(REPORT), 90)


def test_region_without_a_function_says_so(publisher: Publisher) -> None:
    event = accident("central")
    publisher.publish(event)
    assert list(publisher.receipts(event, timeout_s=60))[-1].state is ReceiptState.NO_FUNCTION


def test_a_node_that_lost_an_image_gets_it_from_its_regions_registry(
    site: dict[str, Any], cluster: Callable[[str], Cluster], probe: str
) -> None:
    seoul = cluster("seoul")
    until("no pod before the call", lambda: not seoul.pods(probe), 90)
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    image = seoul.run("get", "deployment", probe, "-n", "functions", "-o", path)
    nodes = site["regions"]["seoul"]["nodes"]
    for node in nodes:
        on_host(node, "ctr", "--namespace", "k8s.io", "images", "remove", "--sync", image)
    faas("function", "call", probe, "--region", "seoul")
    # The kubelet that needed it has it, yet does not pin what it pulls.
    said = [on_host(node, "koren-image", "pull", image).strip() for node in nodes]
    assert f"pinned {image}" in said
