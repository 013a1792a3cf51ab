# SPDX-License-Identifier: Apache-2.0
"""Doing the same in several regions at once, each on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from koren_faas.errors import FaasError, RegionError
from koren_faas.site import Region

T = TypeVar("T")

_AT_ONCE = 8


def attempt(
    regions: Sequence[Region], work: Callable[[Region], T]
) -> tuple[dict[str, T], dict[str, FaasError]]:
    """Do `work` in each region: results, and errors, by the region's name."""

    def one(region: Region) -> T | FaasError:
        try:
            return work(region)
        except FaasError as error:
            return error

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        outcomes = dict(
            zip((region.name for region in regions), pool.map(one, regions), strict=True)
        )
    errors = {name: out for name, out in outcomes.items() if isinstance(out, FaasError)}
    done = {name: out for name, out in outcomes.items() if not isinstance(out, FaasError)}
    return done, errors


def everywhere(regions: Sequence[Region], work: Callable[[Region], T]) -> dict[str, T]:
    """Do `work` in each region: one that is cut off does not keep the others from theirs.

    Raises:
        FaasError: it failed in one; the message tells of each, and which were done.
    """
    done, errors = attempt(regions, work)
    if not errors:
        return done
    if len(regions) == 1:
        raise next(iter(errors.values()))
    lines = [str(error) for error in errors.values()]
    if done:
        lines.append(f"done in: {', '.join(done)}")
    raise RegionError("\n".join(lines))


def demand_all(unreachable: Mapping[str, FaasError]) -> None:
    """Refuse to go on where a region did not tell.

    Raises:
        RegionError: there is such a region; the message tells of each.
    """
    if unreachable:
        raise RegionError("\n".join(str(error) for error in unreachable.values()))
