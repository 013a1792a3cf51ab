# SPDX-License-Identifier: Apache-2.0
"""A camera whose accidents a person confirms: nothing is posted before, one post after, and none of a dismissed one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

import pytest
from conftest import REPORT, Cluster, Heard, faas, on_host, posts, until

from koren_events import Publisher, Receipt, ReceiptState

pytestmark = pytest.mark.long

CAMERA, CLIP, REGION = "cctv-seoul-01", "seoul-accident", "seoul"
SETTINGS = "/etc/koren-detector/config.json"
SET = f"""
import json, sys
settings = json.load(open("{SETTINGS}"))
(camera,) = [one for one in settings["cameras"] if one["id"] == "{CAMERA}"]
print(camera["post"])
camera["post"] = sys.argv[1]
open("{SETTINGS}", "w").write(json.dumps(settings, indent=4, ensure_ascii=False) + "\\n")
"""
METRICS = "import sys, urllib.request as r; print(r.urlopen(f'http://{sys.argv[1]}:9101/metrics').read().decode())"
# The detector misses an accident now and then.
TRIES = 3


@pytest.fixture(scope="module")
def confirmed_camera() -> Iterator[None]:
    """The demo's camera, whose incidents are otherwise published at once, asks a person."""

    def set_post(value: str) -> str:
        before = on_host("hpc-1", "python3", "-c", SET, value).strip()
        on_host("hpc-1", "systemctl", "restart", "koren-detector")
        connected = f'koren_detector_stream_connected{{camera="{CAMERA}",'
        address = on_host("hpc-1", "hostname", "-I").split()[0]

        def streams() -> bool:
            with contextlib.suppress(subprocess.CalledProcessError):
                lines = on_host("hpc-1", "python3", "-c", METRICS, address).splitlines()
                return any(line.startswith(connected) and line.endswith(" 1.0") for line in lines)
            return False

        until("the detector has the camera's stream", streams, 120)
        return before

    before = set_post("confirm")
    assert before == "automatic"
    yield
    set_post(before)


def held_accident(heard: Heard) -> Receipt:
    """The camera sees an accident, which then waits for a person."""
    for _ in range(TRIES):
        since = len(heard)
        on_host("cctv-1", "cctv-play", CAMERA, CLIP)
        try:
            return until(
                "the camera's accident is held",
                lambda since=since: next(
                    (one for one in heard[since:] if one.source == CAMERA and one.state is ReceiptState.HELD), None
                ),
                75,
            )
        except pytest.fail.Exception:
            continue
    pytest.fail(f"the detector missed the accident {TRIES} times")


def of_camera(heard: Heard, since: int, state: ReceiptState) -> list[Receipt]:
    """What was heard of the camera's events."""
    return [one for one in heard[since:] if one.source == CAMERA and one.state is state]


def test_an_accident_is_posted_once_after_a_person_confirmed_it(
    confirmed_camera: None, cluster: Callable[[str], Cluster], publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster(REGION)
    until("no pod before the event", lambda: not seoul.pods(REPORT), 90)
    since = len(heard)
    subject = held_accident(heard).subject
    assert posts(REGION, subject) == [] and not seoul.pods(REPORT)

    faas("incident", "confirm", subject, "--region", REGION)
    # The first event, and the one that says that the road is free.
    until("its end is posted", lambda: any("reply" in one["value"] for one in posts(REGION, subject)), 180)
    assert len([one for one in posts(REGION, subject) if "reply" not in one["value"]]) == 1
    assert of_camera(heard, since, ReceiptState.SUCCEEDED)
    until("the pod is gone", lambda: not seoul.pods(REPORT), 90)


def test_a_dismissed_accident_is_never_posted(
    confirmed_camera: None, cluster: Callable[[str], Cluster], publisher: Publisher, heard: Heard
) -> None:
    seoul = cluster(REGION)
    since = len(heard)
    subject = held_accident(heard).subject
    faas("incident", "dismiss", subject, "--region", REGION)
    # Its later events are dismissed with it.
    until("its end is dismissed", lambda: len(of_camera(heard, since, ReceiptState.DISMISSED)) > 1, 180)
    assert not of_camera(heard, since, ReceiptState.STARTED)
    assert posts(REGION, subject) == [] and not seoul.pods(REPORT)
