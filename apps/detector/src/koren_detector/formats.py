"""Reads annotations in whichever format they have: the detector's own, and those of others.

Of others: ASAM OpenLABEL 1.0, the ACCIDENT benchmark's metadata (arXiv 2604.09819), a manifest of footage with CVAT 1.1
files for its boxes, and the ground truth of koren-scenes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .annotations import (
    MANIFEST,
    VIDEOS,
    Accident,
    Boxes,
    Clip,
    ClipsError,
    Entry,
    box_array,
    clips_of,
    ground_of,
    read_json,
    video_at,
)
from .boxes import KINDS

_ACCIDENT = re.compile("accident|collision|crash", re.IGNORECASE)
_VEHICLES = re.compile(
    f"{'|'.join(KINDS)}|vehicle|motorbike|trailer|lorry|coach|pickup", re.IGNORECASE
)  # types of OpenLABEL's own ontologies are spelt in many ways
_LEAST_VISIBLE = 0.3


def load_clips(path: Path) -> list[Clip]:
    """The clips of a folder, of a manifest, or of one annotation file.

    A folder has a manifest.json, or an annotation file of the same name beside each video. Raises ClipsError.
    """
    if not path.exists():
        raise ClipsError(f"{path}: is not there; name a folder of clips or an annotation file")
    if not path.is_dir():
        return _load_file(path)
    if (path / MANIFEST).is_file():
        return _load_file(path / MANIFEST)
    tables = sorted(path.glob("metadata*.csv"))
    if tables:
        return [clip for table in tables for clip in _load_file(table)]
    videos = sorted(video for video in path.iterdir() if video.suffix.lower() in VIDEOS)
    if not videos:
        raise ClipsError(f"{path}: has neither {MANIFEST} nor a video ({', '.join(VIDEOS)}); name another folder")
    clips = []
    for video in videos:
        annotations = video.with_suffix(".json")
        if not annotations.is_file():
            calm = f'{{"video": "{video.name}", "incidents": []}}'
            raise ClipsError(f"{video}: has no {annotations.name} beside it; where nothing happens in it, write {calm}")
        clips += _load_file(annotations)
    return clips


def _load_file(path: Path) -> list[Clip]:
    if path.suffix.lower() == ".csv":
        return _accident_benchmark(path)
    if path.suffix.lower() != ".json":
        raise ClipsError(f"{path}: is neither JSON nor CSV; name a folder, a manifest or an annotation file")
    document = read_json(path)
    if isinstance(document, dict):
        if "openlabel" in document:
            return [_openlabel(Entry(path, "openlabel", document["openlabel"]))]
        if isinstance(document.get("files"), list):
            return _footage(Entry(path, "", document))
        if "scene" in document and "homography" in document:
            return [_scene(Entry(path, "", document))]
    return clips_of(document, path)


def _openlabel(root: Entry) -> Clip:
    """A clip of OpenLABEL: accidents are events or actions whose type says so, at the objects that relations name."""
    root.get("metadata", "an object with schema_version").get("schema_version", "the version of OpenLABEL, 1.0.0")
    frames = root.find("frames")
    boxes = _openlabel_boxes(frames) if frames else {}
    objects = root.find("objects")
    vehicles = {
        uid
        for uid, value in (objects.value.items() if objects else ())
        if _VEHICLES.search(str(value.get("type", "")) if isinstance(value, Mapping) else "")
    }
    accidents = []
    for kind in ("events", "actions"):
        elements = root.find(kind)
        for uid in elements.value if elements else ():
            element = elements.at_key(uid) if elements else root
            name = element.get("type", "the kind of event").text("the kind of event")
            if not _ACCIDENT.search(name):
                continue
            intervals = element.get("frame_intervals", "when it is, [{frame_start, frame_end}]").items("intervals")
            if not intervals:
                raise element.wrong("has no frame interval; add when it is")
            start = intervals[0].get("frame_start", "a number of a frame").number("a number of a frame")
            end = intervals[-1].get("frame_end", "a number of a frame").number("a number of a frame")
            place = _openlabel_place(boxes, _related(root, uid), start)
            accidents.append(Accident(start, place, name, end + 1))
    accidents.sort(key=lambda accident: accident.t)
    return Clip(
        video=_openlabel_video(root),
        accidents=tuple(accidents),
        vehicles=tuple(
            Boxes(number, box_array([box for uid, box in shown.items() if uid in vehicles]))
            for number, shown in sorted(boxes.items())
        )
        if vehicles
        else (),
        frame_times=True,
    )


def _openlabel_video(root: Entry) -> Path:
    folders = [root.file.parent]
    streams = root.find("streams")
    for name in streams.value if streams else ():
        stream = streams.at_key(name) if streams else root
        if (uri := stream.find("uri")) and stream.value.get("type", "camera") == "camera":
            return video_at(uri, folders)
    for suffix in VIDEOS:
        if (beside := root.file.with_suffix(suffix)).is_file():
            return beside
    raise root.wrong("has no stream of a camera with a uri; add streams.CAMERA.uri, or put the video beside the file")


def _openlabel_boxes(frames: Entry) -> dict[int, dict[str, tuple[float, float, float, float]]]:
    found: dict[int, dict[str, tuple[float, float, float, float]]] = {}
    for number in frames.value:
        frame = frames.at_key(number)
        shown = found.setdefault(int(Entry(frame.file, frame.at, number).number("a frame's key is its number")), {})
        objects = frame.find("objects")
        for uid in objects.value if objects else ():
            data = objects.at_key(uid).find("object_data") if objects else None
            bbox = data.find("bbox") if data else None
            if bbox and (first := bbox.items("boxes of the object")):
                values = first[0].get("val", "[x, y, width, height] of the box, from its centre").items("four numbers")
                if len(values) != 4:
                    raise first[0].wrong("has not four numbers; write [x, y, width, height] from the centre")
                x, y, width, height = (value.number("pixels") for value in values)
                shown[uid] = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return found


def _related(root: Entry, uid: str) -> set[str]:
    """The objects that a relation ties to this event or action."""
    found: set[str] = set()
    relations = root.find("relations")
    for name in relations.value if relations else ():
        relation = relations.at_key(name) if relations else root
        ends = [
            end
            for side in ("rdf_subjects", "rdf_objects")
            if (part := relation.find(side))
            for end in part.items("what the relation ties together")
        ]
        names = [(str(end.value.get("type", "")), str(end.value.get("uid", ""))) for end in ends]
        if any(kind in ("event", "action") and name == uid for kind, name in names):
            found |= {name for kind, name in names if kind == "object"}
    return found


def _openlabel_place(
    boxes: dict[int, dict[str, tuple[float, float, float, float]]], objects: set[str], start: float
) -> tuple[float, float, float, float] | None:
    """Around the objects, where each is first seen from the accident's first frame on."""
    places = []
    for uid in objects:
        later = [shown[uid] for number, shown in sorted(boxes.items()) if number >= start and uid in shown]
        places += later[:1]
    if not places:
        return None
    around = box_array(places)
    left, top = around[:, :2].min(0)
    right, bottom = around[:, 2:].max(0)
    return float(left), float(top), float(right), float(bottom)


def _accident_benchmark(path: Path) -> list[Clip]:
    """The ACCIDENT benchmark's metadata: a row a video with one accident; its place is in shares of the picture."""
    needed = ("path", "accident_time", "center_x", "center_y")
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise ClipsError(f"{path}: can't be read as CSV: {error}; check the file") from error
    if missing:
        have, need = ", ".join(missing), ", ".join(needed)
        raise ClipsError(f"{path}: has no column {have}; take the benchmark's metadata, which has {need}")
    if not rows:
        raise ClipsError(f"{path}: has no row; add one a video")
    folders = [path.parent, path.parent / "real_videos", path.parent / "synthetic_videos"]
    clips = []
    for number, row in enumerate(rows):
        entry = Entry(path, f"line {number + 2}", row)
        video = video_at(entry.at_key("path"), folders)
        time = entry.at_key("accident_time").number("seconds of the video")
        x, y = (entry.at_key(name).number("a share of the picture, 0 to 1") for name in needed[2:])
        place = (x, y, x, y)
        if all(row.get(name) for name in ("x1", "y1", "x2", "y2")):
            sides = [entry.at_key(name).number("a share of the picture") for name in ("x1", "y1", "x2", "y2")]
            place = (sides[0], sides[1], sides[2], sides[3])
        if not all(0 <= value <= 1 for value in place):
            raise entry.wrong("has a place outside the picture; places are shares of its width and height, 0 to 1")
        accident = Accident(time, place, row.get("type") or "unknown", relative=True)
        clips.append(Clip(video, (accident,)))
    return clips


def _footage(root: Entry) -> list[Clip]:
    """A manifest of footage: entries of `files` with `file`, `events` and, for boxes, `annotations` of CVAT 1.1."""
    clips = []
    for entry in root.at_key("files").items("an entry a video"):
        video = video_at(entry.get("file", "the video's path"), [root.file.parent])
        accidents = []
        events = entry.get("events", "what happens, [] where nothing does")
        for event in events.items("what happens in the video"):
            kind = event.get("type", "none, queue or accident").text("the kind of event")
            if _ACCIDENT.search(kind):
                when = event.get("t", "first and last second").items("first and last second")
                times = [part.number("seconds of the video") for part in when]
                accidents.append(Accident(times[0], None, kind, times[-1] if len(times) > 1 else None))
        boxes: tuple[Boxes, ...] = ()
        if annotations := entry.find("annotations"):
            name = annotations.text("the path of a CVAT file")
            # Beside its video, where the folder that the path tells of was left out.
            places = [root.file.parent / name, video.parent / Path(name).name]
            boxes = cvat_boxes(_first(annotations, places))
        clips.append(Clip(video, tuple(accidents), vehicles=boxes))
    return clips


def _first(entry: Entry, places: list[Path]) -> Path:
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places))
    raise entry.wrong(f"names a file that is not there: {looked}; correct the path, or leave it out")


def cvat_boxes(path: Path) -> tuple[Boxes, ...]:
    """All boxes of a CVAT 1.1 file of tracks, a frame each; none where nothing was annotated. Raises ClipsError."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ClipsError(f"{path}: is not XML: {error}; export it from CVAT as “CVAT for video 1.1”") from error
    tracks = root.findall("track")
    if not tracks:
        return ()
    frames: dict[int, list[list[float]]] = {}
    try:
        for number in range(int(root.findtext("meta/task/size", "0"))):
            frames[number] = []
        for track in tracks:
            for box in track.findall("box"):
                if box.get("outside") != "1":
                    sides = [float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr")]
                    frames.setdefault(int(box.attrib["frame"]), []).append(sides)
    except (KeyError, ValueError) as error:
        raise ClipsError(f"{path}: has a box that can't be read: {error}; export the task from CVAT again") from error
    return tuple(Boxes(number, box_array(boxes)) for number, boxes in sorted(frames.items()))


def _scene(root: Entry) -> Clip:
    """The ground truth of koren-scenes, beside its video."""
    ground = ground_of(root.at_key("homography"))
    assert ground is not None
    accidents = []
    for entry in root.get("incidents", "a list").items("an entry an accident"):
        x, y = (entry.get(key, "metres").number("metres") for key in ("x", "y"))
        u, v, w = ground.homography @ [x, y, 1.0]
        point = (float(u / w), float(v / w))
        accidents.append(
            Accident(
                entry.get("time_s", "seconds").number("seconds"),
                (*point, *point),
                entry.get("kind", "the kind").text("the kind of accident"),
                cleared.number("seconds") if (cleared := entry.find("cleared_time_s")) else None,
            )
        )
    frames: list[Any] = root.get("frames", "a list").value
    vehicles = tuple(
        Boxes(number, box_array([v["box"] for v in frame["vehicles"] if v["visible"] > _LEAST_VISIBLE]))
        for number, frame in enumerate(frames)
    )
    name = Entry(root.file, "", root.file.with_suffix(".mp4").name)
    return Clip(video_at(name, [root.file.parent]), tuple(accidents), ground, vehicles)
