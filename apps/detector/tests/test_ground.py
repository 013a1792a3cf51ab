import numpy as np
import pytest

from koren_detector.ground import Ground

GROUND = Ground.typical(960, 544)


def pixel(x: float, y: float) -> np.ndarray:
    u, v, w = GROUND.homography @ [x, y, 1.0]
    return np.array([[u / w, v / w]])


def test_pixels_lead_back_to_their_metres() -> None:
    assert GROUND.metres(pixel(5.0, 30.0))[0] == pytest.approx([5.0, 30.0])


def test_the_sign_and_scale_of_the_matrix_do_not_matter() -> None:
    flipped = Ground(GROUND.homography * -0.37)

    assert flipped.metres(pixel(5.0, 30.0))[0] == pytest.approx([5.0, 30.0])


def test_the_sky_has_no_place_on_the_ground() -> None:
    assert np.isnan(GROUND.metres(np.array([[480.0, -100.0]]))).all()


def test_a_pixel_far_away_stands_for_more_metres() -> None:
    near, far = (np.vstack([pixel(0, y)[0]] * 2).reshape(1, 4) for y in (15.0, 60.0))

    assert GROUND.metres_per_pixel(far)[0] > 3 * GROUND.metres_per_pixel(near)[0]


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.eye(2), np.full((3, 3), np.nan)])
def test_a_matrix_that_maps_nothing_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="homography"):
        Ground(matrix)


def test_rows_that_show_no_near_ground_are_told() -> None:
    top = GROUND.top(960, 544, far_m=60)
    row = pixel(0.0, 60.0)[0][1]

    assert row - 80 < top < row
    assert GROUND.top(960, 544, far_m=1000) < top
