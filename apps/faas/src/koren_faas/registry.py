# SPDX-License-Identifier: Apache-2.0
"""The registry of one region, from which its nodes pull functions' images."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

import urllib3

from koren_faas.errors import BuildError, RegionError
from koren_faas.image import Image
from koren_faas.site import Region, Site

USER = "faas"

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PUSH_TIMEOUT_S = 600
_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)


class Registry:
    """A region's registry, with the password and authority of the site's folder.

    Images have the names that nodes know: the part before the first slash stands for the registry.

    Raises:
        NotReadyError: the site's folder has no password for it.
    """

    def __init__(self, site: Site, region: Region) -> None:
        self._region = region.name
        self._address = region.registry
        self._authority = site.authority
        self._password = site.registry_password(region.name)
        self._pool = urllib3.PoolManager(
            ca_certs=str(site.authority),
            retries=False,
            timeout=_TIMEOUT,
            headers=urllib3.make_headers(basic_auth=f"{USER}:{self._password}"),
        )

    def digest(self, image: str) -> str | None:
        """Digest of the manifest of an image, None when it is not there.

        Raises:
            RegionError: the registry refused or did not answer.
        """
        repository, tag = _place(image)
        answer = self._ask("HEAD", f"{repository}/manifests/{tag}")
        return answer.headers["Docker-Content-Digest"] if answer.status == 200 else None

    def images(self, repository: str) -> list[str]:
        """Names with tag of the images of `repository`.

        Raises:
            RegionError: the registry refused or did not answer.
        """
        answer = self._ask("GET", f"{_place(repository)[0]}/tags/list")
        # A repository whose last tag was deleted has null for its tags.
        tags = json.loads(answer.data)["tags"] if answer.status == 200 else None
        return sorted(f"{repository}:{tag}" for tag in tags or ())

    def push(self, image: Image) -> None:
        """Bring the image from its archive.

        Raises:
            RegionError: the registry refused or did not answer.
            BuildError: this machine lacks the program that does it.
        """
        repository, tag = _place(image.name)
        # The folder is for this user alone, and what is in a file is on no command line.
        with tempfile.TemporaryDirectory(prefix="koren-faas-") as scratch:
            authorities = Path(scratch) / "authorities"
            authorities.mkdir()
            (authorities / "ca.crt").symlink_to(self._authority.resolve())
            login = base64.b64encode(f"{USER}:{self._password}".encode()).decode()
            logins = Path(scratch) / "logins.json"
            logins.write_text(json.dumps({"auths": {self._address: {"auth": login}}}))
            self._skopeo(
                *("copy", "--quiet", "--preserve-digests", "--retry-times", "2"),
                *("--dest-authfile", str(logins), "--dest-cert-dir", str(authorities)),
                f"oci-archive:{image.archive}",
                f"docker://{self._address}/{repository}:{tag}",
            )

    def keep(self, repository: str, names: Collection[str | None]) -> None:
        """Delete the images of `repository` but those of these names.

        Raises:
            RegionError: the registry refused or did not answer.
        """
        there = self.images(repository)
        kept = {self.digest(image) for image in there if image in names}
        # The digest is what is deleted, with every tag that it has.
        for digest in {self.digest(image) for image in there} - kept - {None}:
            self._ask("DELETE", f"{_place(repository)[0]}/manifests/{digest}")

    def _ask(self, method: str, path: str) -> urllib3.BaseHTTPResponse:
        url = f"https://{self._address}/v2/{quote(path, safe='/:')}"
        try:
            answer = self._pool.request(method, url, headers=self._headers())
        except urllib3.exceptions.HTTPError as error:
            raise RegionError(
                f"{self._region}: its registry https://{self._address} does not answer: {error}"
            ) from error
        if answer.status >= 300 and answer.status != 404:
            raise RegionError(
                f"{self._region}: its registry https://{self._address} refuses to {method} {path}:"
                f" {answer.data.decode(errors='replace').strip() or answer.reason}",
                answer.status,
            )
        return answer

    def _headers(self) -> dict[str, str]:
        return {**self._pool.headers, "Accept": _MANIFEST}

    def _skopeo(self, *arguments: str) -> None:
        try:
            done = subprocess.run(
                ["skopeo", *arguments],
                check=False,
                text=True,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_PUSH_TIMEOUT_S,
            )
        except FileNotFoundError:
            raise BuildError("skopeo is not installed on this machine") from None
        except subprocess.TimeoutExpired:
            raise RegionError(
                f"{self._region}: bringing an image to its registry took more than"
                f" {_PUSH_TIMEOUT_S} s"
            ) from None
        if done.returncode != 0:
            raise RegionError(
                f"{self._region}: its registry https://{self._address} does not take the image:"
                f" {done.stderr.strip()}"
            )


def _place(image: str) -> tuple[str, str]:
    """Repository and tag, as the registry knows them, of an image's name."""
    repository, _, tag = image.partition("/")[2].partition(":")
    return repository, tag
