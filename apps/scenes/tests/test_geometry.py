import numpy as np
import pytest

from koren_scenes.camera import Camera
from koren_scenes.geometry import Rectangle, clip, contact


def test_cars_side_by_side_do_not_touch() -> None:
    assert contact(Rectangle(0, 0, 0, 4.5, 1.8), Rectangle(0, 1.9, 0, 4.5, 1.8)) is None


def test_a_rear_end_contact_points_forward_with_the_overlap_as_depth() -> None:
    touch = contact(Rectangle(0, 0, 0, 4, 2), Rectangle(3.5, 0, 0, 4, 2))
    assert touch is not None
    assert touch.normal == pytest.approx([1, 0])
    assert touch.depth_m == pytest.approx(0.5)
    assert touch.point == pytest.approx([1.75, 0])


def test_turned_rectangles_with_overlapping_bounds_can_be_apart() -> None:
    diagonal = Rectangle(0, 0, np.pi / 4, 6, 1)
    assert contact(diagonal, Rectangle(1.8, -1.8, np.pi / 4, 2, 1)) is None


def test_clip_keeps_the_common_area() -> None:
    common = clip(Rectangle(0, 0, 0, 2, 2).corners, Rectangle(1, 1, 0, 2, 2).corners)
    assert common.min(0) == pytest.approx([0, 0])
    assert common.max(0) == pytest.approx([1, 1])


def test_homography_agrees_with_the_projection_of_ground_points() -> None:
    camera = Camera(eye=(-17, 19, 9), target=(3, -4, 0), field_deg=62)
    ground = np.array([[0.0, 0, 0], [10, -6, 0], [-3, 7, 0]])
    image = np.column_stack([ground[:, :2], np.ones(3)]) @ camera.homography.T
    pixels, depth = camera.project(ground)
    assert (depth > 0).all()
    assert image[:, :2] / image[:, 2:] == pytest.approx(pixels)


def test_the_target_is_in_the_middle_and_up_is_up() -> None:
    camera = Camera(eye=(0, -20, 8), target=(0, 0, 0), field_deg=60)
    pixels, _ = camera.project(np.array([[0.0, 0, 0], [0, 0, 2], [2, 0, 0]]))
    assert pixels[0] == pytest.approx([480, 272])
    assert pixels[1][1] < 272
    assert pixels[2][0] > 480
