import numpy as np
from scenes import FPS, seen

from koren_detector.tracking import Detections, Tracker


def drive(tracker: Tracker, frames: list[Detections]) -> list[list[int]]:
    return [tracker.update(number / FPS, frame).numbers.tolist() for number, frame in enumerate(frames)]


def test_a_vehicle_counts_once_it_was_seen_three_times() -> None:
    numbers = drive(Tracker(), [seen([(n * 2.0, 20.0)]) for n in range(4)])

    assert numbers == [[], [], [1], [1]]


def test_a_fast_vehicle_keeps_its_number_though_its_boxes_do_not_overlap() -> None:
    # 20 m/s at 5 frames/s: 4 m a frame, about the length of the car.
    numbers = drive(Tracker(), [seen([(-14 + n * 4.0, 20.0)]) for n in range(8)])

    assert numbers[-1] == [1]


def test_a_vehicle_out_of_sight_for_a_moment_keeps_its_number() -> None:
    frames = [seen([(-10 + n * 2.0, 20.0)]) for n in range(10)]
    frames[5] = frames[6] = Detections.none()

    assert drive(Tracker(), frames)[-1] == [1]


def test_vehicles_that_meet_keep_their_numbers() -> None:
    frames = [seen([(-10 + n * 2.0, 20.0), (10 - n * 2.0, 24.0)]) for n in range(10)]
    tracker = Tracker()

    drive(tracker, frames)
    tracks = tracker.update(2.0, frames[-1])

    rightmost = tracks.numbers[tracks.boxes[:, 0].argmax()]
    assert (rightmost, sorted(tracks.numbers)) == (1, [1, 2])


def test_an_unsure_detection_keeps_a_track_but_begins_none() -> None:
    frames = [seen([(0.0, 20.0)])] * 3 + [seen([(0.0, 20.0), (8.0, 20.0)], score=0.25)] * 4

    assert drive(Tracker(), frames)[-1] == [1]


def test_a_standing_vehicle_is_kept_longer_than_one_that_drives_off() -> None:
    standing, leaving = Tracker(), Tracker()
    drive(standing, [seen([(0.0, 20.0)])] * 6)
    drive(leaving, [seen([(n * 3.0, 20.0)]) for n in range(6)])

    gone_for = 2.5
    assert standing.update(1.0 + gone_for, Detections.none()).numbers.tolist() == [1]
    assert leaving.update(1.0 + gone_for, Detections.none()).numbers.tolist() == []


def test_kinds_go_by_all_votes() -> None:
    tracker = Tracker()
    for number in range(6):
        found = seen([(0.0, 20.0)])
        kinds = np.array([2 if number == 5 else 0])
        tracks = tracker.update(number / FPS, Detections(found.boxes, found.scores, kinds))

    assert tracks.kinds.tolist() == [0]
