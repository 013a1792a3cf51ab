"""Annotations as people and tools write them, and what is said of those that are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from koren_detector.annotations import ClipsError
from koren_detector.formats import load_clips

GROUND = [[10.0, 0.0, 5.0], [0.0, 10.0, 5.0], [0.0, 0.01, 1.0]]
EMPTY = {"frame": 50, "boxes": []}
CRASH = {"t": 12.5, "box": [10, 20, 50, 60], "type": "rear_end", "cleared": 40}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two videos, which nobody looks into here."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def write(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_manifest_names_videos_and_their_accidents(folder: Path) -> None:
    clips = [
        {"video": "a.mp4", "incidents": [CRASH, {"t": 3, "x": 7, "y": 8}, {"t": 4}], "ground": GROUND},
        {
            "video": "b.mp4",
            "incidents": [],
            "vehicles": [{"frame": 25, "boxes": [[0, 0, 9, 9]]}, {"frame": 50, "boxes": []}],
        },
    ]
    for document in ({"clips": clips}, clips):
        a, b = load_clips(write(folder / "manifest.json", document).parent)

        assert a.video == folder / "a.mp4"
        assert [accident.place for accident in a.accidents] == [(10, 20, 50, 60), (7, 8, 7, 8), None]
        assert (a.accidents[0].t, a.accidents[0].type, a.accidents[0].cleared) == (12.5, "rear_end", 40)
        assert a.ground is not None and a.ground.homography.tolist() == GROUND
        assert b.ground is None and b.accidents == ()
        assert [(boxes.frame, len(boxes.boxes)) for boxes in b.vehicles] == [(25, 1), (50, 0)]


def test_a_folder_has_an_annotation_beside_each_video(folder: Path) -> None:
    write(folder / "a.json", {"video": "a.mp4", "incidents": [CRASH], "camera": "cctv-01", "label": "confirmed"})
    write(folder / "b.json", {"video": "b.mp4", "incidents": []})

    assert [len(clip.accidents) for clip in load_clips(folder)] == [1, 0]


def test_a_video_without_annotation_is_not_taken_for_a_calm_one(folder: Path) -> None:
    write(folder / "a.json", {"video": "a.mp4", "incidents": []})

    with pytest.raises(ClipsError, match=r'b\.mp4: has no b\.json.*write \{"video": "b\.mp4", "incidents": \[\]\}'):
        load_clips(folder)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "is not JSON"),
        ([], "has no clip"),
        ({"clips": [], "more": 1}, "unknown 'more'"),
        (7, "must be an object with 'video'"),
        ([{"incidents": []}], r"\[0\] has no 'video'"),
        ([{"video": "c.mp4", "incidents": []}], r"\[0\]\.video names a video that is not there: .*c\.mp4; correct"),
        ([{"video": "a.mp4"}], r"\[0\] has no 'incidents'; add it: .*\[\] where there is none"),
        ([{"video": "a.mp4", "incidents": [], "grund": []}], "unknown 'grund'; known are .*ground"),
        ([{"video": "a.mp4", "incidents": {}}], r"\[0\]\.incidents must be a list"),
        ([{"video": "a.mp4", "incidents": [{}]}], r"\[0\]\.incidents\[0\] has no 't'"),
        ([{"video": "a.mp4", "incidents": [{"t": "soon"}]}], r"incidents\[0\]\.t is 'soon'; write a number"),
        ([{"video": "a.mp4", "incidents": [{"t": True}]}], "t is True; write a number"),
        ([{"video": "a.mp4", "incidents": [{"t": -1}]}], "t -1; write seconds from the video's beginning"),
        ([{"video": "a.mp4", "incidents": [{"t": 5, "cleared": 4}]}], "cleared at 4 s, before it happens at 5 s"),
        ([{"video": "a.mp4", "incidents": [{"t": 5, "x": 4}]}], "has x or y alone"),
        ([{"video": "a.mp4", "incidents": [{"t": 5, "x": 4, "y": 4, "box": [1, 2, 3, 4]}]}], "a box and a point"),
        ([{"video": "a.mp4", "incidents": [{"t": 5, "box": [9, 2, 3, 4]}]}], "write left, top, right, bottom"),
        ([{"video": "a.mp4", "incidents": [{"t": 5, "tipe": "x"}]}], "unknown 'tipe'"),
        ([{"video": "a.mp4", "incidents": [], "ground": [[1, 2]]}], "ground can't be used: .*leave it out"),
        ([{"video": "a.mp4", "incidents": [], "vehicles": [EMPTY | {"frame": 1.5}]}], "frame 1.5; write"),
        ([{"video": "a.mp4", "incidents": [], "vehicles": [EMPTY | {"boxes": [[1]]}]}], r"boxes\[0\] is \[1\]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_entry_and_remedy(folder: Path, document: Any, said: str) -> None:
    path = write(folder / "manifest.json", document)

    with pytest.raises(ClipsError, match=said) as caught:
        load_clips(folder)

    assert str(caught.value).startswith(f"{path}: ")


def test_a_folder_without_videos_and_a_path_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClipsError, match=r"has neither manifest\.json nor a video"):
        load_clips(tmp_path)
    with pytest.raises(ClipsError, match="is not there"):
        load_clips(tmp_path / "away")


def openlabel(**more: Any) -> dict[str, Any]:
    frames = {
        "9": {"objects": {"1": {"object_data": {"bbox": [{"name": "shape", "val": [50, 50, 20, 10]}]}}}},
        "10": {
            "objects": {
                "1": {"object_data": {"bbox": [{"name": "shape", "val": [60, 50, 20, 10]}]}},
                "2": {"object_data": {"bbox": [{"name": "shape", "val": [80, 60, 20, 10]}]}},
                "3": {"object_data": {"bbox": [{"name": "shape", "val": [5, 5, 2, 6]}]}},
            }
        },
    }
    root: dict[str, Any] = {
        "metadata": {"schema_version": "1.0.0"},
        "streams": {"camera1": {"type": "camera", "uri": "a.mp4"}},
        "frames": frames,
        "objects": {
            "1": {"name": "car1", "type": "Car"},
            "2": {"name": "van1", "type": "Van"},
            "3": {"name": "ped1", "type": "Pedestrian"},
        },
        "events": {"e1": {"name": "e", "type": "collision", "frame_intervals": [{"frame_start": 10, "frame_end": 99}]}},
        "actions": {"a1": {"name": "a", "type": "walking", "frame_intervals": [{"frame_start": 0, "frame_end": 5}]}},
        "relations": {
            "r1": {
                "name": "r1", "type": "isSubjectOfEvent",
                "rdf_subjects": [{"type": "object", "uid": "1"}, {"type": "object", "uid": "2"}],
                "rdf_objects": [{"type": "event", "uid": "e1"}],
            }
        },
    }  # fmt: skip
    return {"openlabel": root | more}


def test_openlabel_gives_accidents_by_frame_at_the_related_objects_and_boxes_of_vehicles(folder: Path) -> None:
    (clip,) = load_clips(write(folder / "a.json", openlabel()))

    assert clip.video == folder / "a.mp4" and clip.frame_times
    (accident,) = clip.accidents
    assert (accident.t, accident.cleared, accident.type) == (10, 100, "collision")
    assert accident.place == (50, 45, 90, 65)
    assert [(boxes.frame, boxes.boxes.tolist()) for boxes in clip.vehicles] == [
        (9, [[40, 45, 60, 55]]),
        (10, [[50, 45, 70, 55], [70, 55, 90, 65]]),
    ]


def test_openlabel_without_relations_has_accidents_without_a_place(folder: Path) -> None:
    (clip,) = load_clips(write(folder / "a.json", openlabel(relations={}, streams={})))

    assert clip.accidents[0].place is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"metadata": {}}, "openlabel.metadata has no 'schema_version'"),
        ({"events": {"e1": {"name": "e1", "type": "crash"}}}, "openlabel.events.e1 has no 'frame_intervals'"),
        ({"streams": {"c": {"type": "camera", "uri": "z.mp4"}}}, "streams.c.uri names a video that is not there"),
        ({"frames": {"x": {}}}, r"openlabel\.frames\.x is 'x'; write a number"),
    ],
)
def test_what_is_wrong_in_openlabel_is_named(folder: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ClipsError, match=said):
        load_clips(write(folder / "a.json", openlabel(**more)))


COLUMNS = "path,duration,no_frames,accident_time,center_x,center_y,x1,y1,x2,y2,type\n"


def test_the_accident_benchmarks_metadata_gives_times_and_shares_of_the_picture(folder: Path) -> None:
    (folder / "real_videos").mkdir()
    (folder / "a.mp4").rename(folder / "real_videos/a.mp4")
    write(folder / "metadata-real.csv", COLUMNS + "a.mp4,20,500,7.5,0.5,0.6,0.4,0.5,0.6,0.7,t-bone\n")

    (clip,) = load_clips(folder)

    (accident,) = clip.accidents
    assert clip.video == folder / "real_videos/a.mp4"
    assert (accident.t, accident.place, accident.type) == (7.5, (0.4, 0.5, 0.6, 0.7), "t-bone")
    assert accident.relative


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,duration\na.mp4,3\n", "has no column accident_time, center_x, center_y"),
        (COLUMNS, "has no row"),
        (COLUMNS + "c.mp4,20,500,7.5,0.5,0.6,,,,,single\n", r"line 2\.path names a video that is not there"),
        (COLUMNS + "a.mp4,20,500,,0.5,0.6,,,,,single\n", r"line 2\.accident_time is ''; write a number"),
        (COLUMNS + "a.mp4,20,500,7,320,0.6,,,,,single\n", "line 2 has a place outside the picture"),
    ],
)
def test_what_is_wrong_in_the_benchmarks_metadata_is_named(folder: Path, text: str, said: str) -> None:
    with pytest.raises(ClipsError, match=said):
        load_clips(write(folder / "metadata.csv", text))


CVAT = """<annotations><meta><task><size>3</size></task></meta>
<track id="0" label="vehicle"><box frame="0" outside="0" xtl="1" ytl="2" xbr="3" ybr="4"/>
<box frame="1" outside="1" xtl="1" ytl="2" xbr="3" ybr="4"/></track></annotations>"""


def test_a_manifest_of_footage_gives_boxes_of_cvat_in_every_frame(folder: Path) -> None:
    write(folder / "boxes.xml", CVAT)
    files = [
        {"file": "a.mp4", "events": [{"type": "queue", "t": [0, 6]}], "annotations": "elsewhere/boxes.xml"},
        {"file": "b.mp4", "events": [{"type": "accident", "t": [4, 9]}]},
    ]
    a, b = load_clips(write(folder / "manifest.json", {"files": files}))

    assert a.accidents == ()
    assert [(boxes.frame, boxes.boxes.tolist()) for boxes in a.vehicles] == [(0, [[1, 2, 3, 4]]), (1, []), (2, [])]
    assert [(accident.t, accident.cleared) for accident in b.accidents] == [(4, 9)]


def test_a_cvat_file_without_tracks_is_not_taken_for_an_empty_road(folder: Path) -> None:
    write(folder / "boxes.xml", "<annotations><meta><task><size>3</size></task></meta></annotations>")
    files = [{"file": "a.mp4", "events": [], "annotations": "boxes.xml"}]

    (clip,) = load_clips(write(folder / "manifest.json", {"files": files}))

    assert clip.vehicles == ()


@pytest.mark.parametrize("text", ["<a", '<annotations><track><box frame="0"/></track></annotations>'])
def test_a_broken_cvat_file_is_named(folder: Path, text: str) -> None:
    write(folder / "boxes.xml", text)
    write(folder / "manifest.json", {"files": [{"file": "a.mp4", "events": [], "annotations": "boxes.xml"}]})

    with pytest.raises(ClipsError, match=r"boxes\.xml: "):
        load_clips(folder)
