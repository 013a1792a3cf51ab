from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from koren_detector.clip_store import Clip, ClipStore, Shot
from koren_detector.evaluate import Video
from koren_events import Receipt, ReceiptState

OPENED_S = 1_700_000_010.0
CLIP = Clip(
    event_id="7f0c8a52-1111-4222-8333-444455556666", subject="cctv-seoul-01-20231114T221328Z", region="seoul",
    camera="cctv-seoul-01", opened_s=OPENED_S, started_s=OPENED_S - 2.0, box=(10.0, 20.0, 60.0, 50.0), what="side",
    ground=[[34.2, -6.5, 490.9], [1.8, 2.1, 307.9], [0.024, 0.0276, 1.0]],
)  # fmt: skip
NAME = f"{CLIP.subject}-7f0c8a52"
HOLD_S = 3600.0


def shots(count: int = 40, fps: float = 4.0) -> list[Shot]:
    """A picture that gets lighter from frame to frame; the incident opens at the last."""
    made = []
    for number in range(count):
        _, coded = cv2.imencode(".jpg", np.full((120, 160, 3), 5 * number, np.uint8))
        made.append(Shot(OPENED_S - (count - 1 - number) / fps, coded.tobytes()))
    return made


def receipt(state: ReceiptState, after_s: float = 60.0, **other: str) -> Receipt:
    held = datetime.fromtimestamp(OPENED_S + 1, UTC)
    names = {"id": CLIP.event_id, "source": CLIP.camera, "region": CLIP.region, "subject": CLIP.subject, **other}
    return Receipt(**names, state=state, time=held + timedelta(seconds=after_s), phases={"received": held})


Open = Callable[..., ClipStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the store of a folder, as each run of the detector does."""
    stores = []

    def one(most_bytes: int = 10**9, kept_days: float = 30) -> ClipStore:
        stores.append(ClipStore(tmp_path / "clips", kept_days=kept_days, most_bytes=most_bytes, hold_s=HOLD_S))
        return stores[-1]

    yield one
    for store in stores:
        store.close()


def files(tmp_path: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (tmp_path / "clips" / folder).iterdir())


def annotation(tmp_path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((tmp_path / "clips" / "labelled" / f"{NAME}.json").read_text())
    return found


def test_a_dismissed_incident_becomes_a_calm_clip(tmp_path: Path, opened: Open) -> None:
    store = opened()
    store.expect(CLIP)
    store.keep(CLIP, shots())
    store.on_receipt(receipt(ReceiptState.HELD, 0))
    store.on_receipt(receipt(ReceiptState.DISMISSED))
    store.close()

    assert annotation(tmp_path) == {
        "video": f"{NAME}.mp4", "incidents": [], "camera": CLIP.camera, "label": "dismissed", "ground": CLIP.ground,
    }  # fmt: skip
    assert files(tmp_path, "undecided") == []
    # As koren-detector-evaluate reads it: the options that OpenCV is given for live streams pass over a first frame.
    frames = list(Video(tmp_path / "clips" / "labelled" / f"{NAME}.mp4", fps=10))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(40) / 4, abs=0.01)
    assert frames[0].picture.shape == (120, 160, 3)
    assert frames[0].picture.mean() < 10 < 180 < frames[-1].picture.mean()


def test_a_confirmed_incident_says_when_and_where_it_happened(tmp_path: Path, opened: Open) -> None:
    store = opened()
    store.expect(CLIP)
    store.keep(CLIP, shots())
    store.on_receipt(receipt(ReceiptState.RECEIVED))
    # What follows of the released event decides nothing any more.
    store.on_receipt(receipt(ReceiptState.SUCCEEDED))
    store.close()

    found = annotation(tmp_path)
    assert found["label"] == "confirmed"
    # 40 frames at 4 a second; it began 2 s before the last.
    assert found["incidents"] == [{"t": 7.75, "box": [10.0, 20.0, 60.0, 50.0], "type": "side"}]


def test_a_decision_that_comes_before_the_video_is_kept(tmp_path: Path, opened: Open) -> None:
    store = opened()
    store.expect(CLIP)
    store.on_receipt(receipt(ReceiptState.DISMISSED, 3))
    store.keep(CLIP, shots())
    store.close()

    assert files(tmp_path, "labelled") == [f"{NAME}.json", f"{NAME}.mp4"]


def test_a_later_run_takes_in_the_decision(tmp_path: Path, opened: Open) -> None:
    store = opened()
    store.expect(CLIP)
    store.keep(CLIP, shots())
    store.close()
    assert files(tmp_path, "undecided") == [f"{NAME}.json", f"{NAME}.mp4"]
    assert files(tmp_path, "labelled") == []

    again = opened()
    again.on_receipt(receipt(ReceiptState.RECEIVED))
    again.close()

    assert annotation(tmp_path)["label"] == "confirmed"
    assert files(tmp_path, "undecided") == []


def test_a_run_that_died_while_it_filed_a_clip_is_finished_by_the_next(tmp_path: Path, opened: Open) -> None:
    store = opened()
    store.expect(CLIP)
    store.keep(CLIP, shots())
    store.close()
    undecided = tmp_path / "clips" / "undecided"
    state = json.loads((undecided / f"{NAME}.json").read_text())
    (undecided / f"{NAME}.json").write_text(json.dumps({**state, "label": "dismissed"}))
    (undecided / "half.part.mp4").write_bytes(b"half a video")
    (undecided / "unfinished.json").write_text("{")

    opened().close()

    assert annotation(tmp_path)["label"] == "dismissed"
    assert files(tmp_path, "undecided") == []


def test_what_nobody_decided_in_time_is_no_example(tmp_path: Path, opened: Open) -> None:
    store = opened()
    store.expect(CLIP)
    store.keep(CLIP, shots())
    store.on_receipt(receipt(ReceiptState.DISMISSED, HOLD_S + 1))
    store.close()

    assert files(tmp_path, "undecided") == files(tmp_path, "labelled") == []


@pytest.mark.parametrize(
    "other", [{"id": "another"}, {"source": "cctv-seoul-02"}, {"region": "busan"}], ids=lambda other: next(iter(other))
)
def test_receipts_of_others_decide_nothing(tmp_path: Path, opened: Open, other: dict[str, str]) -> None:
    store = opened()
    store.expect(CLIP)
    store.keep(CLIP, shots())
    store.on_receipt(receipt(ReceiptState.DISMISSED, **other))
    store.close()

    assert files(tmp_path, "labelled") == []


def test_the_oldest_clips_go_when_there_is_too_much(tmp_path: Path, opened: Open) -> None:
    opened().close()
    labelled = tmp_path / "clips" / "labelled"
    for age in range(4):
        make(labelled, f"clip-{age}", age_s=60 * age)

    opened(most_bytes=2500).close()

    assert files(tmp_path, "labelled") == ["clip-0.json", "clip-0.mp4", "clip-1.json", "clip-1.mp4"]


def test_clips_go_after_their_days(tmp_path: Path, opened: Open) -> None:
    opened().close()
    labelled = tmp_path / "clips" / "labelled"
    make(labelled, "old", age_s=31 * 86_400)
    make(labelled, "young", age_s=29 * 86_400)

    opened().close()

    assert files(tmp_path, "labelled") == ["young.json", "young.mp4"]


def make(folder: Path, name: str, age_s: float) -> None:
    (folder / f"{name}.json").write_text("{}")
    video = folder / f"{name}.mp4"
    video.write_bytes(bytes(1000))
    os.utime(video, (time.time() - age_s,) * 2)


def test_nobody_else_can_look_at_the_pictures(tmp_path: Path, opened: Open) -> None:
    opened().close()

    folder = tmp_path / "clips"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "labelled", folder / "undecided")] == [0o700] * 3


def test_a_clip_that_cannot_be_written_costs_no_other(tmp_path: Path, opened: Open) -> None:
    store = opened()
    broken = replace(CLIP, event_id="9a9a9a9a-1111-4222-8333-444455556666")
    store.expect(broken)
    store.keep(broken, [Shot(OPENED_S - 1, b"no picture"), Shot(OPENED_S, b"no picture")])
    store.expect(CLIP)
    store.keep(CLIP, shots())
    for id in (broken.event_id, CLIP.event_id):
        store.on_receipt(receipt(ReceiptState.DISMISSED, id=id))
    store.close()

    assert files(tmp_path, "labelled") == [f"{NAME}.json", f"{NAME}.mp4"]
    assert files(tmp_path, "undecided") == []
