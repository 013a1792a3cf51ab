# SPDX-License-Identifier: Apache-2.0
"""Filters that read an inventory's list of functions."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def function_secrets(
    functions: Sequence[Mapping[str, Any]], site: Mapping[str, Any], folder: str
) -> list[dict[str, Any]]:
    """The Secrets that each region is to have, by region and name.

    Raises:
        AnsibleFilterError: a file can't be read, a region does not exist, or two functions want
            the same Secret with different contents.
    """
    regions = site.get("regions", {})
    edges = [name for name in regions if name != "central"]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for function in functions if regions else ():
        for region in function.get("regions") or edges:
            if region not in regions:
                raise AnsibleFilterError(
                    f"function {function['name']}: the site has no region {region};"
                    f" it has: {', '.join(sorted(regions))}"
                )
            for secret, data in _contents(function, region, folder).items():
                if found.setdefault((region, secret), data) != data:
                    raise AnsibleFilterError(
                        f"function {function['name']}: secret {secret} has other contents"
                        " than for another function; give it a name of its own"
                    )
    return [
        {"region": region, "context": regions[region]["context"], "name": secret, "data": data}
        for (region, secret), data in sorted(found.items())
    ]


def _contents(function: Mapping[str, Any], region: str, folder: str) -> dict[str, dict[str, str]]:
    contents: dict[str, dict[str, str]] = {}
    for secret, files in (function.get("secrets") or {}).items():
        contents[secret] = {
            name: _base64(str(text).replace("{region}", region).encode()) for name, text in files.items()
        }
    for secret, files in (function.get("secret_files") or {}).items():
        for name, path in files.items():
            file = os.path.join(folder, str(path).replace("{region}", region))
            try:
                with open(file, "rb") as stream:
                    contents.setdefault(secret, {})[name] = _base64(stream.read())
            except OSError as error:
                raise AnsibleFilterError(
                    f"function {function['name']}: file {name} of secret {secret}: {error}"
                ) from error
    return contents


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


class FilterModule:
    """Filters of the collection that read a list of functions."""

    def filters(self) -> dict[str, Any]:
        """Names to functions."""
        return {"function_secrets": function_secrets}
