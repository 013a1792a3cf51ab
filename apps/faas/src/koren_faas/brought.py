# SPDX-License-Identifier: Apache-2.0
"""Images that users have made: looked at, and taken into an archive on this machine."""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koren_faas.errors import BuildError, FunctionError
from koren_faas.function import Function
from koren_faas.tools import run

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_INSPECT_TIMEOUT_S = 120
_COPY_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Brought:
    """An image that a user has made.

    Attributes:
        place: where it is, as skopeo names it.
        digest: of its manifest.
    """

    place: str
    digest: str

    @property
    def tag(self) -> str:
        """Tag of the function's image that it becomes."""
        return hashlib.sha256(f"image\n{self.digest}\n".encode()).hexdigest()[:20]


def find(function: Function) -> Brought:
    """The image that the function names, whose program can run on the regions' nodes.

    Raises:
        FunctionError: it is not there, or can't run.
        BuildError: skopeo is not there.
    """
    place = f"docker://{function.image}" if function.image else _archive_place(function)
    about = _inspect(function, place, "--no-tags")
    config = _inspect(function, place, "--config")
    wanted = ("linux", _ARCHITECTURES.get(platform.machine(), platform.machine()))
    found = (config.get("os"), config.get("architecture"))
    if found != wanted:
        raise FunctionError(
            f"function {function.name!r}: image {place} is for {'/'.join(map(str, found))};"
            f" the nodes are {'/'.join(wanted)}: build it for these"
        )
    started = config.get("config") or {}
    if not started.get("Entrypoint") and not started.get("Cmd"):
        raise FunctionError(
            f"function {function.name!r}: image {place} names no program: give it an ENTRYPOINT that"
            " speaks the Runtime API"
        )
    return Brought(place, about["Digest"])


def fetch(brought: Brought, archive: Path, name: str) -> None:
    """Copy the image into an OCI archive, in which it is called `name`.

    Raises:
        BuildError: it can't be copied.
    """
    done = run(["skopeo", "copy", "--quiet", brought.place, f"oci-archive:{archive}:{name}"], _COPY_TIMEOUT_S)
    if done.returncode != 0:
        raise BuildError(f"image {brought.place} can't be copied: {done.stderr.strip()}")


def _archive_place(function: Function) -> str:
    """The archive as skopeo names it, by what is in it: what OCI tools, or `docker save` have written."""
    source = function.source
    assert source is not None
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.name.removeprefix("./") == "oci-layout":
                    return f"oci-archive:{source}"
                if member.name.removeprefix("./") == "manifest.json":
                    return f"docker-archive:{source}"
    except (OSError, tarfile.TarError) as error:
        raise FunctionError(f"function {function.name!r}: archive {source} can't be read: {error}") from error
    raise FunctionError(
        f"function {function.name!r}: archive {source} is no image's: write one with"
        " 'buildah push IMAGE oci-archive:FILE' or 'docker save'"
    )


def _inspect(function: Function, place: str, *options: str) -> Any:
    done = run(["skopeo", "inspect", *options, place], _INSPECT_TIMEOUT_S)
    if done.returncode != 0:
        raise FunctionError(f"function {function.name!r}: image {place} can't be read: {done.stderr.strip()}")
    return json.loads(done.stdout)
