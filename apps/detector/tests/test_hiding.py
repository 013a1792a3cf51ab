import cv2
import numpy as np
from scenes import seen

from koren_detector.boxes import Array, Picture
from koren_detector.hiding import hide, look_closely
from koren_detector.vehicles import Found

NOBODY = np.zeros((0, 4))
CAR = (300, 200, 500, 350)
PLATE = (372, 310, 428, 326)
FRAME = (544, 960, 3)


def noise() -> Picture:
    return np.random.default_rng(1).integers(0, 255, FRAME).astype(np.uint8)


def detail(picture: Picture, left: int, top: int, right: int, bottom: int) -> float:
    """How much neighbouring pixels differ, across and down."""
    part = picture[top:bottom, left:right].astype(float)
    return float(np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean())


def car(plate: str) -> Picture:
    """A car whose plate is 56 px wide, as wide as a good street camera shows it."""
    picture = np.full(FRAME, 110, np.uint8)
    cv2.rectangle(picture, CAR[:2], CAR[2:], (90, 60, 40), -1)
    cv2.rectangle(picture, PLATE[:2], PLATE[2:], (250, 250, 250), -1)
    cv2.putText(picture, plate, (PLATE[0] + 3, PLATE[3] - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (20, 20, 20), 1)
    return picture


def test_people_are_past_recognition_and_the_rest_is_as_it_was() -> None:
    frame = noise()
    hidden = frame.copy()

    hide(hidden, np.array([[100.0, 100.0, 160.0, 260.0], [940.0, 500.0, 990.0, 600.0]]), NOBODY)

    assert detail(hidden, 110, 110, 150, 250) < 0.1 * detail(frame, 110, 110, 150, 250)
    assert (hidden[300:, :900] == frame[300:, :900]).all()


def test_of_a_plate_no_letter_is_left() -> None:
    one, other = car("123 4567"), car("908 3142")
    assert np.abs(one.astype(int) - other).max() > 150, "they can be told apart before"

    for picture in (one, other):
        hide(picture, NOBODY, np.array([CAR], float))

    left = np.abs(one.astype(int) - other)
    assert left.max() < 40 and left.mean() < 2
    assert detail(one, *PLATE) < 0.25 * detail(car("123 4567"), *PLATE)
    assert one[318, 400].mean() > one[280, 400].mean() + 20, "that there is a plate may be seen"


def test_windows_are_coarser_than_the_body() -> None:
    hidden = noise()

    hide(hidden, NOBODY, np.array([CAR], float))

    assert detail(hidden, 310, 205, 490, 275) < 0.7 * detail(hidden, 310, 290, 490, 345)


def test_vehicles_too_small_to_show_a_plate_stay_as_they_are() -> None:
    frame = noise()
    hidden = frame.copy()

    hide(hidden, NOBODY, np.array([[300.0, 200.0, 322.0, 216.0], [500.0, 5.0, 500.0, 5.0]]))

    assert (hidden == frame).all()


def test_who_is_too_small_for_the_whole_picture_is_found_in_a_part_of_it() -> None:
    frame = np.zeros(FRAME, np.uint8)
    places = [(100, 300, 110, 330), (850, 40, 860, 70)]
    for left, top, right, bottom in places:
        frame[top:bottom, left:right] = 255

    def find(picture: Picture) -> Found:
        people: list[Array] = []
        if picture.shape[1] < frame.shape[1]:
            rows, columns = np.nonzero(picture[..., 0])
            if len(rows):
                people = [np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)]
        return Found(seen([]), np.array(people, float).reshape(-1, 4))

    people, vehicles = look_closely(find, frame)

    assert sorted(map(tuple, people)) == places
    assert vehicles.shape == (0, 4)


def test_what_the_network_sees_in_a_cut_off_scene_does_not_hide_half_of_it() -> None:
    def find(picture: Picture) -> Found:
        height, width = picture.shape[:2]
        return Found(seen([]), np.array([[0, 0, width, height]], float) if width < FRAME[1] else NOBODY)

    people, _ = look_closely(find, np.zeros(FRAME, np.uint8))

    assert people.shape == (0, 4)
