# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from typing import Any

import pytest
from api_server import ApiServer

from koren_faas import Line, RegionError, Site, logs


def _pod(name: str, phase: str) -> dict[str, Any]:
    return {"type": "MODIFIED", "object": {"metadata": {"name": name}, "status": {"phase": phase}}}


def test_following_goes_on_with_pods_that_come_later(
    live_site: Site, servers: dict[str, ApiServer]
) -> None:
    seoul, busan = servers["seoul"], servers["busan"]
    seoul.output = {"hello-1": ["one\n", "two\n"], "hello-2": ["three\n"]}
    busan.output = {"hello-9": ["nine\n"]}
    follow = logs(live_site, "hello", follow=True)

    seoul.watched.put(_pod("hello-1", "Pending"))
    seoul.watched.put(_pod("hello-1", "Running"))
    assert [next(follow), next(follow)] == [
        Line("seoul", "hello-1", "one"),
        Line("seoul", "hello-1", "two"),
    ]
    # It is told again of a pod that it reads already, and the watch ends: it asks for another.
    seoul.watched.put(_pod("hello-1", "Running"))
    expired: dict[str, Any] = {"metadata": {}, "status": "Failure", "code": 410}
    seoul.watched.put({"type": "ERROR", "object": expired})
    seoul.watched.put(None)
    seoul.watched.put(_pod("hello-1", "Succeeded"))
    seoul.watched.put(_pod("hello-2", "Running"))
    assert next(follow) == Line("seoul", "hello-2", "three")
    busan.watched.put(_pod("hello-9", "Running"))
    assert next(follow) == Line("busan", "hello-9", "nine")


def test_following_says_when_a_region_breaks_off(
    live_site: Site, servers: dict[str, ApiServer]
) -> None:
    follow = logs(live_site, "hello", ["seoul"], follow=True)
    servers["seoul"].output = {"hello-1": ["one\n"]}
    servers["seoul"].watched.put(_pod("hello-1", "Running"))
    assert next(follow).text == "one"
    servers["seoul"].close()
    with pytest.raises(RegionError, match="seoul"):
        list(itertools.islice(follow, 1))
