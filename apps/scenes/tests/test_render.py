import numpy as np
import pytest

from koren_scenes.bodies import mesh
from koren_scenes.camera import Camera
from koren_scenes.junction import VEHICLE_TYPES
from koren_scenes.render import OVERSAMPLING, Actor, Renderer

CAMERA = Camera(eye=(0, -20, 8), target=(0, 0, 0), field_deg=60)


def renderer() -> Renderer:
    size = (CAMERA.height * OVERSAMPLING, CAMERA.width * OVERSAMPLING, 3)
    return Renderer(CAMERA, np.full(size, 100, np.uint8), seed=1)


def actor(track: int, kind: str = "car", x: float = 0, y: float = 0) -> Actor:
    size = VEHICLE_TYPES[kind]
    return Actor(track, kind, x, y, 0.3, size.length, size.width)


@pytest.mark.parametrize("kind", sorted(VEHICLE_TYPES))
def test_a_mesh_fills_its_vehicle_and_faces_outwards(kind: str) -> None:
    size = VEHICLE_TYPES[kind]
    for variant in range(4):
        faces = mesh(kind, size.length, size.width, variant).faces(nose_first=False)
        spread = np.ptp(faces.corners, axis=0)
        assert spread[0] == pytest.approx(size.length, rel=0.06)
        assert spread[1] == pytest.approx(size.width, rel=0.3)
        assert faces.corners[:, 2].min() >= -0.01
        upward = faces.normals[faces.centres[:, 2] > 0.98 * faces.corners[:, 2].max()]
        assert (upward[:, 2] > 0).all()


def test_the_box_holds_what_was_drawn_and_nothing_else() -> None:
    empty, _ = renderer().frame([])
    image, seen = renderer().frame([actor(5)])
    assert [s.track for s in seen] == [5]
    x0, y0, x1, y1 = seen[0].box
    changed = np.abs(image.astype(int) - empty).max(2) > 60
    rows, columns = np.nonzero(changed)
    # Shadows lie beside the box and darken by less than the threshold.
    assert x0 - 2 <= columns.min() and columns.max() <= x1 + 2
    assert y0 - 2 <= rows.min() and rows.max() <= y1 + 2
    assert columns.max() - columns.min() > 0.8 * (x1 - x0)
    assert seen[0].visible > 0.98


def test_a_hidden_vehicle_says_how_much_of_it_can_be_seen() -> None:
    _, seen = renderer().frame([actor(1, "bus", y=0), actor(2, "car", y=3)])
    visible = {s.track: s.visible for s in seen}
    assert visible[1] > 0.98
    assert visible.get(2, 0.0) < 0.7


def test_a_vehicle_outside_the_picture_is_not_listed() -> None:
    _, seen = renderer().frame([actor(1, x=200), actor(2, y=-60)])
    assert seen == []


def test_frames_are_the_same_every_time() -> None:
    first, _ = renderer().frame([actor(3)])
    second, _ = renderer().frame([actor(3)])
    assert np.array_equal(first, second)
