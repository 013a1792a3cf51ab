# SPDX-License-Identifier: Apache-2.0
"""The registry of a region: pushed to over the network, pulled from by the region's node."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]

HOST = "seoul-cp"
CTR = "ctr --namespace k8s.io"
NAME = "functions.koren.internal/hello"


class Client:
    """Somebody who reaches the registry over the network, with skopeo."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.address = f"{site.hosts[HOST]}:5000"
        # Whatever image: one of the bundle.
        self.archive = site.folder.parent / "bundle/images/pause.tar"
        self.password = (site.folder / "secrets/registry-seoul").read_text().strip()
        self._folder = folder
        (folder / "trusted").mkdir()
        (folder / "nothing").mkdir()
        (folder / "trusted/ca.crt").symlink_to(site.client_files("operator")[0])

    def skopeo(self, *command: str, password: str | None, trusts: str = "trusted") -> str:
        """What skopeo prints; raises CalledProcessError with its words when it fails."""
        logins = self._folder / "logins.json"
        login = base64.b64encode(f"faas:{password}".encode()).decode()
        auths = {} if password is None else {self.address: {"auth": login}}
        logins.write_text(json.dumps({"auths": auths}))
        verb, *rest = command
        which = "--dest-cert-dir" if verb == "copy" else "--cert-dir"
        options = ["--authfile", str(logins), which, str(self._folder / trusts)]
        return subprocess.run(
            ["skopeo", verb, *options, *rest], check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def push(self, tag: str, *, password: str | None, trusts: str = "trusted") -> None:
        """Bring the image to the registry under a tag."""
        target = f"docker://{self.address}/hello:{tag}"
        self.skopeo("copy", "--quiet", f"oci-archive:{self.archive}", target, password=password, trusts=trusts)


@pytest.fixture(scope="module")
def client(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client that has pushed an image as hello:1."""
    made = Client(site, tmp_path_factory.mktemp("client"))
    made.push("1", password=made.password)
    return made


def test_what_was_pushed_is_there_for_who_knows_the_password(client: Client) -> None:
    target = f"docker://{client.address}/hello:1"
    assert "1" in json.loads(client.skopeo("inspect", target, password=client.password))["RepoTags"]


@pytest.mark.parametrize("password", ["wrong" * 8, None], ids=["wrong", "none"])
def test_nobody_else_gets_in(client: Client, password: str | None) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        client.push("2", password=password)
    assert "authentication required" in refused.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as refused:
        client.skopeo("inspect", f"docker://{client.address}/hello:1", password=password)
    assert "authentication required" in refused.value.stderr


def test_a_client_that_does_not_know_the_authority_sends_no_password(client: Client) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        client.push("2", password=client.password, trusts="nothing")
    assert "unknown authority" in refused.value.stderr


def test_plain_http_and_old_tls_are_refused(site: Site, client: Client) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{client.address}/v2/", timeout=5)
    assert refused.value.code == 400
    curl = ["curl", "--silent", "--show-error", "--tls-max", "1.2", "--cacert", site.client_files("operator")[0]]
    done = subprocess.run([*curl, f"https://{client.address}/v2/"], capture_output=True, text=True)
    assert done.returncode == 35, done.stderr


def test_the_node_pulls_and_keeps_an_image(site: Site, client: Client) -> None:
    client.push("node", password=client.password)
    image = f"{NAME}:node"
    assert site.run(HOST, f"koren-image pull {image}").strip() == f"pulled {image}"
    listed = site.run(HOST, f"{CTR} images list name=={image} | tail -n 1")
    assert "io.cri-containerd.pinned=pinned" in listed
    # It is whole: a container of it runs.
    site.run(HOST, f"{CTR} run --detach {image} from-registry")
    end = f"{CTR} tasks kill --signal 9 from-registry; sleep 1; {CTR} containers delete from-registry"
    site.run(HOST, end, check=False)

    assert site.run(HOST, f"koren-image pull {image}") == ""
    site.run(HOST, f"{CTR} images label {image} io.cri-containerd.pinned=")
    assert site.run(HOST, f"koren-image pull {image}").strip() == f"pinned {image}"
    # A pull of the kubelet's takes the pin away, too.
    site.run(HOST, f"{CTR} images label {image} io.cri-containerd.pinned=")
    pin = f"koren-image pin {NAME.partition('/')[0]}"
    assert (site.run(HOST, pin).strip(), site.run(HOST, pin)) == (f"pinned {image}", "")
    site.run(HOST, f"{CTR} images remove {image}")


def test_an_image_that_is_nowhere_is_named(site: Site) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        site.run(HOST, f"koren-image pull {NAME}:none")
    assert f"{NAME}:none: not found" in failed.value.stderr


def test_an_archive_is_imported_once(site: Site) -> None:
    archive = "/opt/koren/images/etcd.tar"
    image = site.run(HOST, "cat /opt/koren/images/etcd.name").strip()
    site.run(HOST, f"{CTR} images remove --sync {image}", check=False)
    assert site.run(HOST, f"koren-image import {archive}").strip() == f"imported {image}"
    assert site.run(HOST, f"koren-image import {archive}") == ""
    with pytest.raises(subprocess.CalledProcessError):
        site.run(HOST, "koren-image import /etc/hostname")


def test_of_an_images_older_versions_one_and_those_in_use_stay(site: Site) -> None:
    image = site.run(HOST, "cat /opt/koren/images/etcd.name").strip()
    repository = image.rpartition(":")[0]
    for number, version in enumerate(("used", "oldest", "older", "before")):
        name = f"{repository}:{version}"
        site.run(HOST, f"{CTR} images tag {image} {name}")
        site.run(HOST, f"{CTR} images label {name} io.cri-containerd.pinned=pinned kr.koren.imported={number + 1}")
    site.run(HOST, f"{CTR} containers create {repository}:used in-use")
    site.run(HOST, f"{CTR} images remove --sync {image}")
    said = site.run(HOST, "koren-image import /opt/koren/images/etcd.tar").splitlines()
    assert said == [f"imported {image}", f"removed {repository}:older", f"removed {repository}:oldest"]
    listed = site.run(HOST, f"{CTR} images list --quiet").split()
    of_it = {name for name in listed if name.startswith(repository)}
    assert of_it == {image, f"{repository}:used", f"{repository}:before"}
    site.run(HOST, f"{CTR} containers delete in-use")
    site.run(HOST, f"{CTR} images remove {repository}:used {repository}:before")


def test_secrets_are_for_those_who_need_them(site: Site, client: Client) -> None:
    secret = site.folder / "secrets/registry-seoul"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert client.password not in site.run(HOST, "cat /etc/docker/registry/*")
    modes = "stat --format '%U %G %a' /etc/docker/registry/htpasswd /etc/containerd/certs.d/*/hosts.toml"
    assert site.run(HOST, modes).splitlines() == ["root docker-registry 640", "root root 600"]


def test_the_service_may_do_no_more_than_it_must(site: Site) -> None:
    owner = "stat --format %U /proc/$(systemctl show --property MainPID --value docker-registry)"
    assert site.run(HOST, owner).strip() == "docker-registry"
    verdict = site.run(HOST, "systemd-analyze security --no-pager docker-registry | tail -n 1")
    level = float(verdict.split(":")[1].split()[0])
    assert level < 2.0, verdict
    listening = site.run(HOST, "ss -Hltnp | grep docker-registry | awk '{print $4}'").split()
    assert sorted(listening) == sorted([f"{site.hosts[HOST]}:5000", "127.0.0.1:5001"])
    assert "registry_http_requests_total" in site.run(
        HOST, "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:5001/metrics\").read().decode())'"
    )


def test_what_is_deleted_frees_its_space_and_the_rest_stays(site: Site, client: Client, eventually: Wait) -> None:
    stored = "find /var/lib/docker-registry -type f -printf '%s\\n' | awk '{sum += $1} END {print sum + 0}'"
    full = int(site.run(HOST, stored))
    for tag in ("1", "node"):
        client.push(tag, password=client.password)
    client.skopeo("delete", f"docker://{client.address}/hello:1", password=client.password)
    site.run(HOST, "systemctl kill --signal=KILL docker-registry")

    def answers() -> bool:
        try:
            client.push("kept", password=client.password)
        except subprocess.CalledProcessError:
            return False
        return True

    # All tags were one image: it is gone. It comes back by itself after a kill, and clears up before.
    eventually(answers, 20)
    tags = json.loads(client.skopeo("inspect", f"docker://{client.address}/hello:kept", password=client.password))
    assert tags["RepoTags"] == ["kept"]
    client.skopeo("delete", f"docker://{client.address}/hello:kept", password=client.password)
    site.run(HOST, "systemctl restart docker-registry")
    eventually(lambda: int(site.run(HOST, stored)) < full / 10, 20)
    eventually(answers, 20)
