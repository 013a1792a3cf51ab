"""What the detector tells Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# The region is that of the camera's events, not that of the detector's host.
_CAMERA = ["camera", "region"]

FRAMES = Counter("koren_detector_frames_total", "Frames looked at", _CAMERA)
STILL_FRAMES = Counter("koren_detector_still_frames_total", "Frames that showed nothing new", _CAMERA)
FPS = Gauge("koren_detector_fps", "Frames looked at a second, lately", _CAMERA)
LAG = Gauge("koren_detector_lag_seconds", "From a frame's own time to its decision, without what HLS was late", _CAMERA)
CONNECTED = Gauge("koren_detector_stream_connected", "1 while the stream comes", _CAMERA)
TRACKS = Gauge("koren_detector_tracks", "Vehicles followed now", _CAMERA)
SCORE = Gauge("koren_detector_score", "Highest accident score of the last frame", _CAMERA)
DECISIONS = Counter(
    "koren_detector_decisions_total",
    "Decisions; post says what becomes of the incident: confirm, automatic or never",
    [*_CAMERA, "decision", "post"],
)
PICTURES_WITHHELD = Counter(
    "koren_detector_pictures_withheld_total", "Events without a picture, since hiding people and plates failed", _CAMERA
)
OPEN = Gauge("koren_detector_open_incidents", "Incidents open now", _CAMERA)
VIEW = Gauge("koren_detector_view", "Number of the view that the camera shows; 0 is its own", _CAMERA)
VIEW_SUSPENDED = Gauge(
    "koren_detector_view_suspended", "1 while the camera's picture is not trusted for this reason", [*_CAMERA, "reason"]
)
SPOOLED = Gauge("koren_detector_spooled_events", "Events that no region has on disk yet")
SPANS_DROPPED = Counter("koren_detector_spans_dropped_total", "Spans of traces that the collector did not get")
FIND = Histogram(
    "koren_detector_find_seconds", "The vehicle network, a frame",
    buckets=(0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
)  # fmt: skip
