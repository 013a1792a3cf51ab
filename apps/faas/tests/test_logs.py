# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from api_server import PODS, ApiServer
from click.testing import CliRunner, Result

from koren_faas import Line, RegionError, Site, logs
from koren_faas.cli import main
from koren_faas.logs import joined


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


def _there(server: ApiServer, pod: str, status: dict[str, Any]) -> None:
    limits = {"containers": [{"resources": {"limits": {"memory": "256Mi"}}}]}
    meta = {"name": pod, "labels": {"faas.koren.kr/function": "hello"}}
    server.objects[f"{PODS}/{pod}"] = {"metadata": meta, "status": status, "spec": limits}


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), "function", *arguments])


def test_what_ended_pods_wrote_is_shown_before_what_others_write(
    live_site: Site, servers: dict[str, ApiServer]
) -> None:
    seoul = servers["seoul"]
    seoul.kept = [
        {"pod": "hello-0", "time": "2026-11-28T01:00:00Z", "text": "one\ntwo\n"},
        {"pod": "hello-1", "time": "2026-11-28T01:01:00Z", "text": "begins\n"},
        {"pod": "hello-0", "time": "2026-11-28T01:02:00Z", "text": "three\n"},
    ]
    _there(seoul, "hello-1", {"phase": "Running"})
    seoul.output = {"hello-1": ["begins\n", "goes on\n"]}
    shown = _faas(live_site, "logs", "hello")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        *(f"seoul/hello-0: {word}" for word in ("one", "two", "three")),
        "seoul/hello-1: begins",
        "seoul/hello-1: goes on",
    ]
    # Who follows is shown it too, and what runs comes from the pod.
    seoul.watched.put(_pod("hello-1", "Running"))
    follow = logs(live_site, "hello", ["seoul"], follow=True)
    texts = [line.text for line in itertools.islice(follow, 5)]
    assert texts == ["one", "two", "three", "begins", "goes on"]


def test_a_gateway_that_keeps_no_logs_is_told_and_the_rest_is_shown(
    live_site: Site, servers: dict[str, ApiServer]
) -> None:
    seoul = servers["seoul"]
    seoul.kept = None
    _there(seoul, "hello-1", {"phase": "Running"})
    seoul.output = {"hello-1": ["begins\n"]}
    shown = _faas(live_site, "logs", "hello", "--region", "seoul")
    assert (shown.exit_code, shown.stdout) == (0, "seoul/hello-1: begins\n")
    assert "the logs of ended pods are not available: seoul" in shown.stderr


@pytest.mark.parametrize(
    ("kept", "lines", "whole"),
    [
        ([], ["a"], ["a"]),
        ([["a", "b"]], [], ["a", "b"]),
        ([["a"], ["b"]], ["a", "b", "c"], ["a", "b", "c"]),
        # Of the container before, which wrote the same first line.
        ([["a", "x"], ["a"]], ["a", "c"], ["a", "x", "a", "c"]),
        ([["x", "y"], ["z", "a"]], ["a", "b"], ["x", "y", "z", "a", "b"]),
        # Both ends may be missing, and something between.
        ([["b"], ["d", "e"]], ["a", "b", "c", "d", "e", "f"], ["a", "b", "c", "d", "e", "f"]),
        ([["a", "b", "c"], ["d"]], ["c", "d", "e"], ["a", "b", "c", "d", "e"]),
    ],
)
def test_no_line_is_shown_twice(kept: list[list[str]], lines: list[str], whole: list[str]) -> None:
    assert joined(kept, lines) == whole


def test_what_ended_a_pod_is_named_with_the_option_that_helps(
    live_site: Site, servers: dict[str, ApiServer]
) -> None:
    seoul = servers["seoul"]
    seoul.events = [
        {
            "involvedObject": {"name": pod},
            "lastTimestamp": "2026-11-28T01:00:00Z",
            "message": 'Usage of EmptyDir volume "tmp" exceeds the limit "64Mi". ',
        }
        for pod in ("hello-5d9c-x7k2p", "hello-other-5d9c-x7k2p")
    ]
    ended = {"reason": "OOMKilled", "finishedAt": "2026-11-28T02:00:00Z"}
    _there(
        seoul,
        "hello-5d9c-aaaaa",
        {"phase": "Running", "containerStatuses": [{"lastState": {"terminated": ended}}]},
    )
    seoul.output = {"hello-5d9c-aaaaa": []}
    evicted = 'evicted: Usage of EmptyDir volume "tmp" exceeds the limit "64Mi"; --tmp-size'
    memory = "out of memory, limit 256Mi; --memory sets it"
    described = _faas(live_site, "describe", "hello", "--region", "seoul")
    assert described.exit_code == 0, described.output
    assert "hello-5d9c-x7k2p: " + evicted in described.stdout
    assert "hello-5d9c-aaaaa: " + memory in described.stdout
    assert "hello-other" not in described.stdout
    written = _faas(live_site, "logs", "hello", "--region", "seoul")
    assert evicted in written.stderr and memory in written.stderr
    as_json = json.loads(_faas(live_site, "describe", "hello", "-o", "json").stdout)
    assert [len(one["ended"]) for one in as_json] == [0, 2]
