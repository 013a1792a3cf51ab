"""Who gets nothing: clients with the wrong certificate, and functions beyond what is theirs."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DONE, OTHER, SITE_DIR, Cluster, Connect, Heard, drill, faas, on_host, until

from koren_events import Publisher, ReceiptState, receipt_topic

GATEWAY = "gateway.koren-faas.svc.cluster.local"
API_SERVER = "kubernetes.default.svc.cluster.local"
# What a refused connection ends with.
REFUSED = "No route to host"
BEARER = "Authorization: Bearer TOKEN\r\n"


def call_other(**data: Any) -> Any:
    """The other function, called in Seoul."""
    return json.loads(faas("function", "call", OTHER, "--region", "seoul", "--data", json.dumps(data)))


@pytest.fixture(scope="module")
def other_asks(other: str) -> str:
    """The other function, with the probe's handler."""
    faas("function", "update", other, "--handler", "handler.handler")
    return other


def greet(address: str, cert: Path | None = None, key: Path | None = None) -> bytes:
    """What a broker says to an MQTT greeting. With TLS 1.3 it tells only then that it wants another certificate."""
    context = ssl.create_default_context(cafile=str(SITE_DIR / "pki" / "ca.crt"))
    if cert:
        context.load_cert_chain(cert, key)
    with (
        socket.create_connection((address, 8883), 5) as plain,
        context.wrap_socket(plain, server_hostname=address) as secured,
    ):
        secured.sendall(bytes.fromhex("101000044d5154540502003c000003414243"))
        return secured.recv(1)


@pytest.mark.parametrize("region", ["central", "seoul"])
def test_a_broker_wants_a_certificate_of_the_site(region: str, site: dict[str, Any], tmp_path: Path) -> None:
    address = site["regions"][region]["broker"]
    pki = SITE_DIR / "pki"
    assert greet(address, pki / "operator.crt", pki / "operator.key") == b"\x20"
    # Its reason may be lost with the connection that it ends.
    ended = r"|EOF occurred|reset by peer"
    with pytest.raises(OSError, match=r"(?i)certificate.required" + ended):
        greet(address)
    cert, key = tmp_path / "foreign.crt", tmp_path / "foreign.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=operator", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    with pytest.raises(OSError, match=r"(?i)unknown.ca" + ended):
        greet(address, cert, key)


def test_a_region_publishes_only_what_is_its_own(connect: Connect, tmp_path: Path) -> None:
    files = []
    for end in ("crt", "key"):
        files.append(tmp_path / f"broker.{end}")
        files[-1].touch(0o600)
        files[-1].write_text(on_host("seoul-cp", "cat", f"/etc/koren/pki/broker.{end}"))
    seoul = connect("central", files[0], files[1])
    for topic in ("events/busan/e2e/drill", "events/seoul/e2e/drill", "receipts/busan/x", "health/busan/gateway"):
        assert "Not authorized" in str(seoul.publish(topic, b"{}")), topic


@pytest.mark.usefixtures("other_asks")
def test_a_function_has_neither_anothers_events_nor_its_state(probe: str, publisher: Publisher, heard: Heard) -> None:
    kept = json.dumps({"do": "keep", "key": "secret", "value": "the probe's"})
    assert faas("function", "call", probe, "--region", "seoul", "--data", kept).strip() == "the probe's"
    assert call_other(do="keep", key="secret") is None

    event = drill("seoul", type=DONE, do="note", work_s=8)
    publisher.publish(event)
    until("the probe has the event in hand", lambda: heard.of(event, ReceiptState.STARTED), 60)
    key = receipt_topic("seoul", event.source, event.id).rpartition("/")[2]
    answers = call_other(
        do="ask",
        whom={
            word: _http(GATEWAY, 8080, f"POST /v1/invocation/{key}/{word}", headers=BEARER, body="{}")
            for word in ("response", "error", "heartbeat")
        }
        | {"state": _http(GATEWAY, 8080, "GET /v1/state/..%2F..%2Fe2e-probe:state:secret", headers=BEARER)},
    )
    assert {name: _status(answer) for name, answer in answers.items()} == {
        "response": 409,
        "error": 409,
        "heartbeat": 409,
        "state": 404,
    }
    last = list(publisher.receipts(event, timeout_s=60))[-1]
    assert last.state is ReceiptState.SUCCEEDED and last.attempt == 1
    assert len(last.result["entries"]) == 1


def ask_what_runs_the_region(site: dict[str, Any]) -> dict[str, str]:
    """What the other function hears from each part of its region."""
    node = site["regions"]["seoul"]["broker"]
    token = f"Koren-Token: TOKEN\r\n{BEARER}"
    answers: dict[str, str] = call_other(
        do="ask",
        whom={
            "function API": _http(GATEWAY, 8443, "GET /v1/functions", headers=token, tls=True),
            "scaler": [GATEWAY, 9090, True, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
            "metrics": _http(GATEWAY, 9100, "GET /metrics"),
            "redis": [node, 6379, True, "KEYS *\r\n"],
            "redis by a guess": [node, 6379, True, "AUTH gateway gateway\r\n"],
            "mosquitto": [node, 8883, True, "\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03ABC"],
            "registry": _http(node, 5000, "GET /v2/_catalog", headers=token, tls=True),
            "kubelet": _http(node, 10250, "GET /pods", headers=token, tls=True),
            "API server": _http(API_SERVER, 443, "GET /api/v1/secrets", headers=token, tls=True),
            "API server, no token": _http(API_SERVER, 443, "GET /api/v1/secrets", tls=True),
            "etcd": _http(node, 2379, "GET /v3/kv/range", tls=True),
        },
    )
    return answers


@pytest.mark.usefixtures("other_asks")
def test_a_function_connects_to_nothing_that_runs_the_region(site: dict[str, Any]) -> None:
    answers = ask_what_runs_the_region(site)
    assert {name: answer for name, answer in answers.items() if REFUSED not in answer} == {}


@pytest.mark.usefixtures("other_asks")
def test_a_function_does_not_reach_another(probe: str, cluster: Callable[[str], Cluster]) -> None:
    seoul = cluster("seoul")

    def addresses() -> list[str]:
        pods = seoul.items("pods", "-n", "functions", "-l", f"faas.koren.kr/function={probe}")
        return [pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")]

    faas("function", "call", probe, "--region", "seoul", "--no-wait", "--data", '{"do": "note", "work_s": 30}')
    (address, *_) = until("the probe has a pod", addresses, 60)
    assert REFUSED in call_other(do="ask", whom={"probe": _http(address, 8080, "GET /")})["probe"]


def test_what_is_declared_is_reached_and_asks_who_it_is(other_asks: str, site: dict[str, Any]) -> None:
    node = site["regions"]["seoul"]["broker"]
    faas("function", "update", other_asks, "--egress", f"{node}:5000")
    try:
        answers = ask_what_runs_the_region(site)
        assert "HTTP/1.1 401" in answers.pop("registry")
        assert {name: answer for name, answer in answers.items() if REFUSED not in answer} == {}
        # Were all of it declared, it would still get nothing.
        faas("function", "update", other_asks, "--egress", "10.0.0.0/8")
        answers = ask_what_runs_the_region(site)
    finally:
        faas("function", "update", other_asks, "--egress", "default")
    refusals = {
        "redis": "-NOAUTH",
        "redis by a guess": "-WRONGPASS",
        "registry": "HTTP/1.1 401",
        "kubelet": "HTTP/1.1 401",
        "API server": "HTTP/1.1 401",
        "API server, no token": "HTTP/1.1 401",
    }
    wrong = {name: answers[name] for name, refusal in refusals.items() if refusal not in answers[name]}
    assert wrong == {}
    # These end the connection before a word is said, or the gateway's policy lets in none.
    for name in ("function API", "scaler", "metrics", "mosquitto", "etcd"):
        assert "Error" in answers[name] or answers[name] == "", (name, answers[name])


def test_pods_that_start_while_nobody_enforces_reach_nothing(
    probe: str, publisher: Publisher, heard: Heard, cluster: Callable[[str], Cluster]
) -> None:
    until("the probe is at zero", lambda: not cluster("seoul").pods(probe), 120)
    nodes = [node["metadata"]["name"] for node in cluster("seoul").items("nodes")]
    event = drill("seoul", type=DONE, do="note")
    for node in nodes:
        on_host(node, "systemctl", "stop", "koren-network-policy")
    try:
        publisher.publish(event)
        until("the probe has a pod that runs", lambda: _running(cluster("seoul"), probe), 60)
        time.sleep(5)  # Its first question to the gateway takes a tenth of that.
        assert heard.of(event, ReceiptState.STARTED) == []
    finally:
        for node in nodes:
            on_host(node, "systemctl", "start", "koren-network-policy")
    assert list(publisher.receipts(event, timeout_s=120))[-1].state is ReceiptState.SUCCEEDED


def _running(cluster: Cluster, function: str) -> bool:
    pods = cluster.items("pods", "-n", "functions", "-l", f"faas.koren.kr/function={function}")
    return any(pod["status"].get("phase") == "Running" for pod in pods)


def _http(host: str, port: int, line: str, *, headers: str = "", body: str = "", tls: bool = False) -> list[Any]:
    """A request as the probe sends it."""
    length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\nKoren-Attempt: 1\r\n" if body else ""
    return [host, port, tls, f"{line} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}Connection: close\r\n\r\n{body}"]


def _status(answer: str) -> int:
    assert answer.startswith("HTTP/1.1 "), answer
    return int(answer.split()[1])
