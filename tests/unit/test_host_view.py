# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told of a host's certificates and versions."""

from __future__ import annotations

import base64
import importlib.machinery
import importlib.util
import subprocess
import time
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/node_exporter/files/koren-host-view"


@pytest.fixture(scope="module")
def view() -> ModuleType:
    """The program, as a module."""
    loader = importlib.machinery.SourceFileLoader("koren_host_view", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A certificate that ends in ten days."""
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ed25519 -nodes -keyout key -out crt -subj /CN=test -days 10"
    subprocess.run(command.split(), check=True, capture_output=True, cwd=folder)
    return (folder / "crt").read_bytes()


def test_each_certificate_of_a_host_is_found_by_its_file(view: ModuleType, certificate: bytes, tmp_path: Path) -> None:
    files = ["etc/koren/pki/mosquitto.crt", "etc/kubernetes/pki/apiserver.crt", "etc/kubernetes/pki/etcd/server.crt"]
    files.append("var/lib/kubelet/pki/kubelet-client-current.pem")
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(certificate)
    (tmp_path / "etc/koren/pki/mosquitto.key").write_text("a key")
    inside = base64.b64encode(certificate).decode()
    (tmp_path / "etc/kubernetes/admin.conf").write_text(f"users:\n- user:\n    client-certificate-data: {inside}\n")
    (tmp_path / "etc/kubernetes/kubelet.conf").write_text("users:\n- user:\n    client-certificate: a file\n")
    found = dict(view.certificates(tmp_path))
    assert set(found) == {f"/{file}" for file in [*files, "etc/kubernetes/admin.conf"]}
    assert set(found.values()) == {certificate}


def test_the_end_of_a_certificate_is_told_in_seconds(view: ModuleType, certificate: bytes) -> None:
    assert view.end(certificate) == pytest.approx(time.time() + 10 * 86400, abs=120)


def test_what_is_no_certificate_has_no_end(view: ModuleType) -> None:
    assert view.end(b"not a certificate") is None


def test_the_exporter_reads_both(view: ModuleType) -> None:
    assert view.text({"/a.crt": 5}, {"mosquitto": "2.0.11-1"}).splitlines() == [
        "# TYPE koren_certificate_end_timestamp_seconds gauge",
        'koren_certificate_end_timestamp_seconds{name="/a.crt"} 5',
        "# TYPE koren_package_info gauge",
        'koren_package_info{package="mosquitto",version="2.0.11-1"} 1',
    ]
