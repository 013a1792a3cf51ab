import numpy as np
import pytest

from koren_scenes.geometry import Rectangle, contact
from koren_scenes.impact import Body, aftermath, collide, collision_kind


def car(x: float, y: float, heading: float, speed: float, mass_kg: float = 1500) -> Body:
    direction = np.array([np.cos(heading), np.sin(heading)])
    return Body(Rectangle(x, y, heading, 4.5, 1.8), mass_kg, speed * direction)


def momentum(*bodies: Body) -> np.ndarray:
    return sum((b.mass_kg * b.velocity for b in bodies), np.zeros(2))


def test_a_rear_end_impact_shares_the_speed_and_keeps_momentum() -> None:
    striking, struck = car(0, 0, 0, 14), car(4.4, 0, 0, 0)
    a, b = collide(striking, struck)
    assert momentum(a, b) == pytest.approx(momentum(striking, struck))
    assert 0 < a.velocity[0] < b.velocity[0] < 14


def test_the_lighter_vehicle_takes_the_larger_change() -> None:
    truck, moved = car(0, 0, 0, 10, mass_kg=9000), car(4.4, 0, 0, 0)
    a, b = collide(truck, moved)
    assert np.linalg.norm(b.velocity) > 5 * np.linalg.norm(a.velocity - truck.velocity)


def test_a_hit_off_the_centre_spins_the_struck_car() -> None:
    struck = car(0, 0, 0, 0)
    striking = car(1.6, -3.1, np.pi / 2, 12)
    _, b = collide(striking, struck)
    assert b.yaw_rate > 0.5


def test_vehicles_that_part_get_no_impulse() -> None:
    a, b = car(0, 0, np.pi, 5), car(4.4, 0, 0, 5)
    assert collide(a, b) == (a, b)


def test_wrecks_slide_to_rest_and_do_not_lie_in_each_other() -> None:
    path_a, path_b, delta_v = aftermath(
        car(0, 0, 0, 14), car(3.0, -2.6, np.pi / 2, 8), friction=0.6, steps=80, dt_s=0.1
    )
    assert 3 < delta_v < 14
    for path in (path_a, path_b):
        assert not path[-1].velocity.any()
        assert path[-1].yaw_rate == 0
        assert path[-1].outline == path[-10].outline
    overlap = contact(path_a[-1].outline, path_b[-1].outline)
    assert overlap is None or overlap.depth_m < 0.5


@pytest.mark.parametrize(
    ("degrees", "kind"), [(0, "rear_end"), (30, "rear_end"), (-90, "side"), (180, "head_on")]
)
def test_kinds_follow_the_headings(degrees: float, kind: str) -> None:
    a = Rectangle(0, 0, 2 * np.pi, 4, 2)
    assert collision_kind(a, Rectangle(0, 0, np.deg2rad(degrees), 4, 2)) == kind
