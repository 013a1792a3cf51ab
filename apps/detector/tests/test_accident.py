import numpy as np
import pytest
from scenes import FPS, GROUND, seen

from koren_detector.accident import AccidentScore, load_weights
from koren_detector.incidents import Opened, Rules
from koren_detector.motion import FEATURES, MotionMeter
from koren_detector.sight import Sight
from koren_detector.tracking import Tracker

torch = pytest.importorskip("torch")


def test_scores_are_those_of_the_network_that_was_trained() -> None:
    from network import Network

    network = Network()
    score = AccidentScore(network.weights())
    tracker, meter = Tracker(), MotionMeter(GROUND)
    features, scores = [], []
    for number in range(20):
        # A second car comes later, so that a state must stay with its own track.
        cars = [(-12 + number, 25.0)] + [(8 - number / 2, 20.0)] * (number > 8)
        motion = meter.update(number / FPS, tracker.update(number / FPS, seen(cars)))
        values = score.update(motion)
        if 1 in motion.tracks.numbers:
            row = motion.tracks.numbers.tolist().index(1)
            features.append(motion.features[row])
            scores.append(values[row])

    with torch.no_grad():
        expected = torch.sigmoid(network(torch.tensor(np.array([features]), dtype=torch.float32)))[0]
    assert scores == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_weights_fit_the_features_and_bring_their_threshold() -> None:
    weights = load_weights()

    assert weights["entry"].shape[1] == len(FEATURES)
    assert 0.5 <= float(weights["threshold"]) < 1


def test_cars_that_drive_queue_and_leave_are_no_accident() -> None:
    sight = Sight(GROUND, load_weights(), Rules(score=float(load_weights()["threshold"])))
    decisions: list[Opened] = []
    for number in range(40 * FPS):
        time_s = number / FPS
        # Two cars brake gently, wait at 5 m and 11 m, and go on after 20 s.
        way = 10 * time_s if time_s < 2 else 20 + 10 * (1 - np.exp(-(time_s - 2) / 1.0))
        way += max(time_s - 22, 0) ** 2
        cars = [(-19 + way, 25.0), (-25.5 + way, 25.0)]
        decisions += sight.update(time_s, seen([car for car in cars if car[0] < 40]), [], lambda _: False)  # type: ignore[arg-type]

    assert decisions == []
