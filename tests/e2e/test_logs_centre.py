"""What the centre's store of logs has of an event: what the gateway, a pod, the detector and hosts wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import SITE_DIR, Cluster, cut_off, drill, faas, on_host, until

from koren_events import Publisher


def _logs(*arguments: str) -> list[dict[str, str]]:
    """The lines that a search finds, the oldest first."""
    return [json.loads(line) for line in faas("logs", *arguments, "-o", "json").splitlines()]


def test_what_gateway_and_function_say_of_an_event_is_found_by_its_id_when_the_pod_is_gone(
    cluster: Callable[[str], Cluster], probe: str, publisher: Publisher
) -> None:
    said = f"said-{uuid.uuid4()}"
    opened = drill("seoul", do="say", text=said)
    publisher.publish(opened)
    pod = list(publisher.receipts(opened, timeout_s=90))[-1].result["pod"]
    closed = drill("seoul", closes=opened)
    publisher.publish(closed)
    list(publisher.receipts(closed, timeout_s=90))
    until("the pod is gone", lambda: pod not in cluster("seoul").pods(probe), 60)

    def printed() -> list[dict[str, str]]:
        return [line for line in _logs("--event", opened.id) if line["text"] == said]

    (line,) = until("the function's line is at the centre", printed, 30)
    assert (line["region"], line["namespace"], line["pod"]) == ("seoul", "functions", pod)
    assert (line["function"], line["event_id"]) == (probe, opened.id)
    lines = _logs("--event", opened.id)
    gateway = [line for line in lines if line.get("namespace") == "koren-faas"]
    assert {"event taken in", "invocation succeeded"} <= {line["text"] for line in gateway}
    assert [line["text"] for line in _logs("--event", opened.id, "--function", probe, "--text", said)] == [said]
    # Of the incident there are both events, and what was printed for them.
    texts = {(line.get("event_id"), line["text"]) for line in _logs("--incident", str(opened.subject))}
    assert {(opened.id, said), (opened.id, "event taken in"), (closed.id, "event taken in")} <= texts


def test_an_incident_of_the_demo_is_told_from_the_camera_on() -> None:
    result: dict[str, Any] = json.loads((SITE_DIR / "demo/result.json").read_text())
    lines = _logs("--incident", result["subject"], "--since", "1d")
    detector = [line for line in lines if line.get("unit") == "koren-detector.service"]
    assert detector and detector[0]["text"] == "incident detected"
    assert detector[0]["region"] == "central"
    taken = [line for line in lines if line["text"] == "event taken in" and line["region"] == "seoul"]
    assert detector[0]["event_id"] in {line["event_id"] for line in taken}
    assert {line["region"] for line in lines} == {"central", "seoul"}


def test_lines_of_a_region_that_was_cut_off_come_when_it_is_back(site: dict[str, Any]) -> None:
    mark = f"cut-{uuid.uuid4()}"
    (host,) = [name for name in site["regions"]["busan"]["nodes"] if name.endswith("-cp")]
    with cut_off("busan"):
        for number in range(20):
            on_host(host, "logger", "--tag", "e2e", f"{mark} {number}")
            time.sleep(0.5)
        assert _logs("--text", mark) == []
        assert _logs("--region", "seoul", "--since", "1m"), "other regions' lines come meanwhile"

    def back() -> list[dict[str, str]]:
        found = _logs("--text", mark, "--host", host)
        return found if len(found) >= 20 else []

    found = until("all lines have come", back, 90)
    assert [line["text"] for line in found] == [f"{mark} {number}" for number in range(20)]
    assert {line["region"] for line in found} == {"busan"}


def test_every_host_sends_its_lines(site: dict[str, Any]) -> None:
    described = (SITE_DIR / "ssh_config").read_text().splitlines()
    hosts = {line.split()[1] for line in described if line.startswith("Host ") and line != "Host *"}
    mark = f"host-{uuid.uuid4()}"
    for host in hosts:
        on_host(host, "logger", "--tag", "e2e", mark)
    until("lines of all", lambda: {line["host"] for line in _logs("--text", mark)} == hosts, 60)


def test_lines_hold_no_secrets_and_no_pictures() -> None:
    secrets = {
        file.name: text
        for file in (SITE_DIR / "secrets").rglob("*")
        if file.is_file() and len(text := file.read_text(errors="replace").strip()) >= 12
    }
    assert secrets
    for name, secret in secrets.items():
        assert _logs("--since", "1d", "--text", secret) == [], f"a line has the secret {name}"
    # A token of Kubernetes, a key, a JPEG in base64.
    for sign in ("eyJhbGciOi", "PRIVATE KEY-----", "/9j/4AAQSkZJRg"):
        assert [line["text"][:200] for line in _logs("--since", "1d", "--text", sign)] == []


def test_who_is_no_operator_is_refused_with_the_reason(tmp_path: Path) -> None:
    # Its certificate is good: the name alone is not known.
    refused = tmp_path / "pki"
    refused.mkdir()
    key, request, certificate = (refused / f"stranger.{end}" for end in ("key", "csr", "crt"))
    subprocess.run(
        ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-subj", "/CN=stranger", "-keyout", key, "-out", request],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["openssl", "x509", "-req", "-in", request, "-CA", SITE_DIR / "pki/ca.crt", "-CAkey", SITE_DIR / "pki/ca.key"]
        + ["-days", "1", "-out", certificate],
        check=True,
        capture_output=True,
    )
    (refused / "ca.crt").write_bytes((SITE_DIR / "pki/ca.crt").read_bytes())
    (tmp_path / "site.json").write_bytes((SITE_DIR / "site.json").read_bytes())
    program = Path(sys.executable).parent / "faas"
    done = subprocess.run(
        [program, "--site-dir", tmp_path, "logs", "--certificate", "stranger"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "not among logs_readers" in done.stderr and "'stranger'" in done.stderr
