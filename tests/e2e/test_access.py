"""Who gets nothing: clients with the wrong certificate, and functions beyond what is theirs."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import DONE, OTHER, SITE_DIR, Connect, Heard, drill, faas, on_host, until

from koren_events import Publisher, ReceiptState, receipt_topic

GATEWAY = "gateway.koren-faas.svc.cluster.local"
API_SERVER = "kubernetes.default.svc.cluster.local"
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


@pytest.mark.usefixtures("other_asks")
def test_a_function_gets_nothing_from_what_runs_the_region(site: dict[str, Any]) -> None:
    node = site["regions"]["seoul"]["broker"]
    token = f"Koren-Token: TOKEN\r\n{BEARER}"
    answers = call_other(
        do="ask",
        whom={
            "function API": _http(GATEWAY, 8443, "GET /v1/functions", headers=token, tls=True),
            "scaler": [GATEWAY, 9090, True, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
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
    refusals = {
        "function API": "HTTP/1.1 403",
        "redis": "-NOAUTH",
        "redis by a guess": "-WRONGPASS",
        "registry": "HTTP/1.1 401",
        "kubelet": "HTTP/1.1 401",
        "API server": "HTTP/1.1 401",
        "API server, no token": "HTTP/1.1 401",
    }
    wrong = {name: answers[name] for name, refusal in refusals.items() if refusal not in answers[name]}
    assert wrong == {}
    # These end the connection before a word is said.
    for name in ("scaler", "mosquitto", "etcd"):
        assert "Error" in answers[name] or answers[name] == "", (name, answers[name])


def _http(host: str, port: int, line: str, *, headers: str = "", body: str = "", tls: bool = False) -> list[Any]:
    """A request as the probe sends it."""
    length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\nKoren-Attempt: 1\r\n" if body else ""
    return [host, port, tls, f"{line} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}Connection: close\r\n\r\n{body}"]


def _status(answer: str) -> int:
    assert answer.startswith("HTTP/1.1 "), answer
    return int(answer.split()[1])
