"""Events as a detector makes them."""

from datetime import UTC, datetime
from typing import Any

from koren_events import Camera, Event, Image, SeenObject, Text, accident_detected

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 200 + b"\xff\xd9"

CAMERA = Camera(
    id="cctv-seoul-01",
    name=Text(ko="올림픽대로 01", en="Olympic-daero 01"),
    latitude=37.52,
    longitude=127.01,
    road=Text(ko="올림픽대로", en="Olympic-daero"),
    direction=Text(ko="잠실 방향", en="towards Jamsil"),
)

CAR = SeenObject(object_class="car", track=7, box=(10.5, 20, 110, 80.25), involved=True)


def accident(**changes: Any) -> Event:
    values: dict[str, Any] = {
        "region": "seoul",
        "camera": CAMERA,
        "severity": "moderate",
        "confidence": 0.93,
        "what": "rear_end",
        "started_at": datetime(2026, 11, 24, 10, 15, 0, 250_000, UTC),
        "objects": [CAR],
        "image": Image(jpeg=JPEG, width=1280, height=720),
    }
    return accident_detected(**(values | changes))
