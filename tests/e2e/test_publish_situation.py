# SPDX-License-Identifier: Apache-2.0
"""An accident is published to a traffic information centre, as the records of ITS and of DATEX II, and closed there."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ROOT, Cluster, accident, faas, until

from koren_events import Publisher, accident_cleared

pytestmark = pytest.mark.long

REGION, FORMATS = "seoul", ("its", "datex")
TOKEN = "a-token-of-the-centre"


class Centre(ThreadingHTTPServer):
    """A traffic information centre; `taken` has the path, the headers and the content of each record."""

    def __init__(self, address: str, folder: Path) -> None:
        self.taken: list[tuple[str, dict[str, str], bytes]] = []
        self.certificate, key = folder / "ca.crt", folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-subj", "/CN=centre", "-addext", f"subjectAltName=IP:{address}", "-days", "1"),
                *("-keyout", str(key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )
        super().__init__((address, 0), _Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.certificate, key)
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://{address}:{self.server_port}"

    def of(self, name: str) -> list[bytes]:
        """The records that were posted to a path."""
        return [content for path, _, content in list(self.taken) if path == f"/{name}"]


class _Handler(BaseHTTPRequestHandler):
    server: Centre

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, dict(self.headers), content))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def centre(site: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    """It runs on this machine, in the network of the region's hosts."""
    network = site["regions"][REGION]["broker"].partition(":")[0].rpartition(".")[0]
    server = Centre(f"{network}.1", tmp_path_factory.mktemp("centre"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def functions(cluster: Any, centre: Centre) -> Iterator[list[str]]:
    """The example function, deployed once for each format; taken away in the end."""
    region: Cluster = cluster(REGION)
    names = [f"e2e-{kind}" for kind in FORMATS]
    try:
        for name, kind in zip(names, FORMATS, strict=True):
            values = {"format": kind, "url": f"{centre.url}/{name}", "publisher": "koren", "token": TOKEN}
            values["ca.crt"] = centre.certificate.read_text()
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
            region.run("apply", "-n", "functions", "-f", "-", stdin=json.dumps(secret))
            faas(
                *("function", "deploy", name, "--region", REGION, "--runtime", "python3.11"),
                *("--from-file", str(ROOT / "apps/publish-situation"), "--handler", "handler.handler"),
                *("--topic", "events/{region}/+/accident", "--egress", centre.url.removeprefix("https://")),
                *("--secret", name, "--env", f"SITUATION_SECRET=/run/secrets/{name}"),
                *("--opens", "kr.koren.traffic.accident.detected", "--closes", "kr.koren.traffic.accident.cleared"),
            )
        yield names
    finally:
        for name in names:
            faas("function", "delete", name)
            region.run("delete", "secret", "-n", "functions", name, "--ignore-not-found")


def test_an_accident_is_published_in_both_formats_and_closed(
    centre: Centre, functions: list[str], cluster: Any, publisher: Publisher
) -> None:
    detected = accident(REGION)
    publisher.publish(detected)
    for name in functions:
        until("the accident is published", lambda name=name: centre.of(name), 120)
    publisher.publish(accident_cleared(detected, cleared_at=datetime.now(UTC)))
    for name in functions:
        until("its end is published", lambda name=name: len(centre.of(name)) > 1, 120)
        assert len(centre.of(name)) == 2

    its, datex = (centre.of(name) for name in functions)
    opened, closed = (json.loads(record) for record in its)
    assert opened["incidentId"] == closed["incidentId"] == f"{REGION}/{detected.subject}"
    assert opened["eventType"] == "교통사고" and not opened["endDate"] and closed["endDate"]
    for record in datex:
        assert b"Accident" in record and str(detected.subject).encode() in record
        assert ElementTree.fromstring(record).tag.endswith("payload")
    assert b"overallEndTime" not in datex[0] and b"overallEndTime" in datex[1]
    headers = [headers for _, headers, _ in centre.taken]
    assert {one["Authorization"] for one in headers} == {f"Bearer {TOKEN}"}
    assert len({one["Idempotency-Key"] for one in headers}) == len(headers)

    seoul: Cluster = cluster(REGION)
    until("no pod is left", lambda: not any(seoul.pods(name) for name in functions), 90)
