import cv2
import numpy as np

from koren_detector.picture import (
    MOST_BYTES,
    Stillness,
    alike,
    decode_patch,
    encode_patch,
    patch,
    snapshot,
)

NOISE = np.random.default_rng(1)
NOBODY = np.zeros((0, 4))


def street() -> np.ndarray:
    frame = np.full((544, 960, 3), 110, np.uint8)
    cv2.rectangle(frame, (400, 300), (520, 380), (200, 60, 40), -1)
    cv2.rectangle(frame, (420, 310), (500, 335), (40, 40, 40), -1)
    return frame


def shaken(frame: np.ndarray) -> np.ndarray:
    return np.clip(frame + NOISE.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)


def test_noise_is_no_movement_but_a_car_is() -> None:
    still = Stillness()
    frame = street()
    assert not still.is_still(frame, 10.0)
    assert still.is_still(shaken(frame), 10.2)

    moved = np.roll(frame, 6, axis=1)

    assert not still.is_still(moved, 10.4)


def test_slow_movement_adds_up() -> None:
    still = Stillness(most_s=100)
    still.is_still(street(), 0.0)

    noticed = [not still.is_still(np.roll(street(), n, axis=1), n / 5) for n in range(1, 9)]

    assert any(noticed)


def test_a_still_street_is_looked_at_again_after_a_while() -> None:
    still = Stillness(most_s=2.0)
    still.is_still(street(), 0.0)

    assert not still.is_still(street(), 2.1)


def test_a_wreck_is_known_again_in_other_light_and_gone_when_it_is() -> None:
    box = (395.0, 295.0, 525.0, 385.0)
    before = patch(street(), box)
    darker = patch(shaken((street() * 0.6).astype(np.uint8)), box)
    gone = patch(shaken(np.full((544, 960, 3), 110, np.uint8)), box)

    assert before is not None and darker is not None and gone is not None
    assert alike(before, darker)
    assert not alike(before, gone)
    assert (decode_patch(encode_patch(before)) == before).all()


def test_nothing_can_be_seen_outside_the_frame() -> None:
    assert patch(street(), (-50.0, 10.0, 2.0, 60.0)) is None


def test_the_picture_of_an_event_is_small_enough_whatever_it_shows() -> None:
    loud = NOISE.integers(0, 255, (1080, 1920, 3)).astype(np.uint8)

    image = snapshot(loud, [(400.0, 300.0, 520.0, 380.0)], NOBODY, NOBODY)

    assert len(image.jpeg) <= MOST_BYTES
    decoded = cv2.imdecode(np.frombuffer(image.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape[:2] == (image.height, image.width)


def test_involved_vehicles_are_framed_in_red() -> None:
    image = snapshot(street(), [(400.0, 300.0, 520.0, 380.0)], NOBODY, NOBODY)

    decoded = cv2.imdecode(np.frombuffer(image.jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    blue, green, red = decoded[300, 460]
    assert red > 150 and blue < 120 and green < 120
