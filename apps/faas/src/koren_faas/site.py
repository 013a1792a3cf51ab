# SPDX-License-Identifier: Apache-2.0
"""A site as this machine knows it: its regions and how to reach them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koren_faas.errors import NotReadyError, SiteError

CENTRAL = "central"


def default_dir() -> Path:
    """Folder of the site's state: KOREN_SITE_DIR, or `.state/local` below the current folder."""
    return Path(os.environ.get("KOREN_SITE_DIR") or ".state/local")


@dataclass(frozen=True, slots=True)
class Region:
    """One Kubernetes cluster of the site.

    Attributes:
        name: the region's name.
        context: its context in the site's kubeconfig.
        nodes: names of the hosts that run pods, as the site's ssh_config knows them.
        registry: host and port of its registry of function images.
        ingress: address of its ingress; empty where it has none.
    """

    name: str
    context: str
    nodes: tuple[str, ...]
    registry: str
    ingress: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """A central and its edges, described by the state folder that the playbooks write.

    Attributes:
        name: the site's name.
        dir: its state folder.
        regions: region name to region.
        bundle: folder with one folder for each component of the bundle.
        logs: address of the centre's store of logs; empty where the site has none.
        console: address of the centre's web page; empty where the site has none.
    """

    name: str
    dir: Path
    regions: Mapping[str, Region]
    bundle: Path
    logs: str = ""
    console: str = ""

    @classmethod
    def load(cls, path: Path | str | None = None) -> Site:
        """Read the site's state from `path` (default: `default_dir()`).

        Raises:
            NotReadyError: the folder has no usable site.json.
        """
        folder = Path(path) if path is not None else default_dir()
        file = folder / "site.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotReadyError(
                f"{file} does not exist: name the site's state folder with --site-dir or"
                " KOREN_SITE_DIR, or set up the site first"
            ) from None
        except (OSError, ValueError) as error:
            raise NotReadyError(f"{file} can't be read: {error}") from error
        try:
            return cls._parse(folder, content)
        except (KeyError, TypeError, AttributeError) as error:
            raise NotReadyError(
                f"{file} is incomplete: {error!r}; run the site's playbook"
            ) from error

    @classmethod
    def _parse(cls, folder: Path, content: dict[str, Any]) -> Site:
        regions = {
            name: Region(
                name=name,
                context=value["context"],
                nodes=tuple(value["nodes"]),
                registry=value["registry"],
                ingress=value.get("ingress") or "",
            )
            for name, value in content["regions"].items()
        }
        return cls(
            name=content["site"],
            dir=folder,
            regions=regions,
            bundle=folder / content["bundle"],
            logs=content.get("logs") or "",
            console=content.get("console") or "",
        )

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig with a context for each region."""
        return self.dir / "kubeconfig"

    @property
    def ssh_config(self) -> Path:
        """Configuration for `ssh -F` that knows each host by its name."""
        return self.dir / "ssh_config"

    @property
    def images(self) -> Path:
        """Folder that keeps the functions' images of this site."""
        return self.dir / "functions"

    @property
    def authority(self) -> Path:
        """Certificate of the site's authority."""
        return self.dir / "pki" / "ca.crt"

    def registry_password(self, region: str) -> str:
        """Password of the user `faas` at the region's registry.

        Raises:
            NotReadyError: it has not been made.
        """
        file = self.dir / "secrets" / f"registry-{region}"
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise NotReadyError(
                f"{file} can't be read: {error}; run the site's playbook"
            ) from error

    @property
    def edges(self) -> tuple[Region, ...]:
        """All regions but the centre, by name."""
        return tuple(self.regions[name] for name in sorted(self.regions) if name != CENTRAL)

    def pick(self, names: Iterable[str] = ()) -> tuple[Region, ...]:
        """The regions of these names, or all of them when there are none.

        Raises:
            SiteError: the site has no region of a name.
        """
        wanted = list(dict.fromkeys(names)) or sorted(self.regions)
        unknown = [name for name in wanted if name not in self.regions]
        if unknown:
            raise SiteError(
                f"site {self.name} has no region {', '.join(unknown)};"
                f" it has: {', '.join(sorted(self.regions))}"
            )
        return tuple(self.regions[name] for name in wanted)
