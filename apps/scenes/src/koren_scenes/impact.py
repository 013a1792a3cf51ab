"""What two vehicles do from the moment they touch: rigid bodies, an impulse, then sliding.

SUMO only freezes colliding vehicles; real ones push each other, spin and slide to rest.
"""

from dataclasses import dataclass, replace

import numpy as np

from .geometry import Array, Rectangle, angle_between, contact

GRAVITY = 9.81
RESTITUTION = 0.12
BODY_FRICTION = 0.35
SUBSTEPS = 10


@dataclass(frozen=True)
class Body:
    """A vehicle in motion: its outline, mass (kg), velocity (m/s, shape (2,)), yaw rate (rad/s)."""

    outline: Rectangle
    mass_kg: float
    velocity: Array
    yaw_rate: float = 0.0

    @property
    def inertia(self) -> float:
        """Moment of inertia about the vertical axis, kg m2."""
        return self.mass_kg * (self.outline.length**2 + self.outline.width**2) / 12


def collision_kind(a: Rectangle, b: Rectangle) -> str:
    """Name a collision by the vehicles' headings: `rear_end`, `side` or `head_on`."""
    angle = angle_between(a.heading, b.heading)
    if angle < np.pi / 4:
        return "rear_end"
    return "head_on" if angle > 3 * np.pi / 4 else "side"


def collide(a: Body, b: Body) -> tuple[Body, Body]:
    """Return both bodies after the impulse of their contact; unchanged if apart or parting."""
    touch = contact(a.outline, b.outline)
    if touch is None:
        return a, b
    n = touch.normal
    arms = [touch.point - np.array([o.outline.x, o.outline.y]) for o in (a, b)]
    velocities = [
        o.velocity + o.yaw_rate * np.array([-r[1], r[0]]) for o, r in zip((a, b), arms, strict=True)
    ]
    relative = velocities[1] - velocities[0]
    approach = float(relative @ n)
    if approach >= 0:
        return a, b
    tangent = relative - approach * n
    speed = float(np.linalg.norm(tangent))
    direction = tangent / speed if speed > 1e-6 else np.zeros(2)

    def mobility(axis: Array) -> float:
        return sum(
            1 / o.mass_kg + float(_cross(r, axis)) ** 2 / o.inertia
            for o, r in zip((a, b), arms, strict=True)
        )

    push = -(1 + RESTITUTION) * approach / mobility(n)
    drag = min(speed / mobility(direction), BODY_FRICTION * push) if speed > 1e-6 else 0.0
    impulse = push * n - drag * direction
    return (
        replace(
            a,
            velocity=a.velocity - impulse / a.mass_kg,
            yaw_rate=a.yaw_rate - float(_cross(arms[0], impulse)) / a.inertia,
        ),
        replace(
            b,
            velocity=b.velocity + impulse / b.mass_kg,
            yaw_rate=b.yaw_rate + float(_cross(arms[1], impulse)) / b.inertia,
        ),
    )


def slide(body: Body, friction: float, dt_s: float) -> Body:
    """Move a body for `dt_s` while its locked tyres slide with the given friction coefficient."""
    o = body.outline
    moved = replace(
        o,
        x=o.x + float(body.velocity[0]) * dt_s,
        y=o.y + float(body.velocity[1]) * dt_s,
        heading=o.heading + body.yaw_rate * dt_s,
    )
    speed = float(np.linalg.norm(body.velocity))
    slower = max(speed - friction * GRAVITY * dt_s, 0.0)
    # Friction under a spinning body acts at about a quarter of its length from the centre.
    spin_loss = friction * GRAVITY * body.mass_kg * o.length / 4 / body.inertia * dt_s
    yaw_rate = np.sign(body.yaw_rate) * max(abs(body.yaw_rate) - spin_loss, 0.0)
    return replace(
        body,
        outline=moved,
        velocity=body.velocity * (slower / speed if speed > 1e-9 else 0.0),
        yaw_rate=float(yaw_rate),
    )


def aftermath(
    a: Body, b: Body, friction: float, steps: int, dt_s: float
) -> tuple[list[Body], list[Body], float]:
    """Follow two colliding bodies for `steps` steps of `dt_s`.

    Returns the states of each (the first is one step after the contact) and the impact's delta-v:
    the larger of both velocity changes in the first impulse, m/s.
    """
    before = (a.velocity, b.velocity)
    a, b = collide(a, b)
    delta_v = max(
        float(np.linalg.norm(o.velocity - v)) for o, v in zip((a, b), before, strict=True)
    )
    path_a: list[Body] = []
    path_b: list[Body] = []
    for _ in range(steps):
        for _ in range(SUBSTEPS if _moves(a) or _moves(b) else 0):
            a, b = slide(a, friction, dt_s / SUBSTEPS), slide(b, friction, dt_s / SUBSTEPS)
            a, b = collide(a, b)
            a, b = _push_apart(a, b)
        path_a.append(a)
        path_b.append(b)
    return path_a, path_b, delta_v


def _push_apart(a: Body, b: Body) -> tuple[Body, Body]:
    """Undo a tenth of the overlap, the lighter body giving way more: crushed metal stays close."""
    touch = contact(a.outline, b.outline)
    if touch is None or touch.depth_m < 0.15:
        return a, b
    share = b.mass_kg / (a.mass_kg + b.mass_kg)
    shift = touch.normal * touch.depth_m * 0.1
    return (
        replace(a, outline=_shifted(a.outline, -shift * share)),
        replace(b, outline=_shifted(b.outline, shift * (1 - share))),
    )


def _moves(body: Body) -> bool:
    return bool(body.velocity.any()) or body.yaw_rate != 0


def _shifted(outline: Rectangle, by: Array) -> Rectangle:
    return replace(outline, x=outline.x + float(by[0]), y=outline.y + float(by[1]))


def _cross(a: Array, b: Array) -> float:
    return float(a[0] * b[1] - a[1] * b[0])
