from pathlib import Path

import numpy as np
import pytest

from koren_detector.ground import Ground
from koren_detector.queue_map import LEARNING_S, LEAST_S, QueueMap
from koren_detector.queue_store import QueueStore
from koren_detector.settings import CameraSettings
from koren_events import Camera, Text

NAME = Text("이름", "name")
CAMERA = Camera(id="cctv-01", name=NAME, latitude=37.5, longitude=127.0, road=NAME, direction=NAME)
DAY_S = 86_400.0


def limit_s(queues: QueueMap, x: float, y: float) -> float:
    return float(queues.limits_s(320, 192)[int(y * 192), int(x * 320)])


def stand(queues: QueueMap, x: float, y: float, seconds: float) -> None:
    queues.stood(np.array([x]), np.array([y]), np.array([seconds], np.float32))


def test_where_vehicles_wait_they_may_wait_somewhat_longer_and_elsewhere_not() -> None:
    queues = QueueMap()
    stand(queues, 0.5, 0.5, 60.0)
    stand(queues, 0.5, 0.5, 20.0)

    assert 60.0 < limit_s(queues, 0.5, 0.5) < 120.0
    assert limit_s(queues, 0.5, 0.5) == limit_s(queues, 0.52, 0.48), "the next car's place is not quite the same"
    assert limit_s(queues, 0.1, 0.9) == LEAST_S


def test_what_has_not_happened_for_weeks_is_forgotten() -> None:
    queues = QueueMap()
    stand(queues, 0.5, 0.5, 600.0)
    for _ in range(60):
        queues.pass_time(DAY_S)

    assert limit_s(queues, 0.5, 0.5) == LEAST_S


def store(folder: Path, ground: Ground | None = None) -> QueueStore:
    return QueueStore(CameraSettings(CAMERA, "seoul", "", ground), folder)


def test_a_detector_that_starts_anew_knows_the_queues(tmp_path: Path) -> None:
    queues, keeper = store(tmp_path).load(), store(tmp_path)
    stand(queues, 0.999, 0.001, 60.0)
    queues.pass_time(LEARNING_S)
    keeper.keep(queues, 1.7e9)
    keeper.keep(queues, 1.7e9 + 400)

    again = store(tmp_path).load()

    assert again.learned
    assert limit_s(again, 0.999, 0.001) == pytest.approx(limit_s(queues, 0.999, 0.001), abs=2)
    assert not store(tmp_path, Ground.typical(640, 384)).load().learned, "another ground is another camera"


def test_a_damaged_map_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "cctv-01.json").write_text('{"ground": {"homography": null, "size": null}, "watched_s": 1}')

    assert not store(tmp_path).load().learned
    assert (tmp_path / "cctv-01.damaged").exists()
