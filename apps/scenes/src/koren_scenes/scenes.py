"""The named scenes: which junction, which camera, which minutes of its traffic."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike as Image

from . import background, render
from .background import House
from .camera import Camera
from .junction import Arm, Junction
from .render import Actor, Seen
from .traffic import STEP_S, Collision, Traffic, simulate

FPS = 10
BRAKING_M_S2 = 1.0
# One for all, so that all films of a place show the same houses and asphalt.
LOOK_SEED = 7


@dataclass(frozen=True)
class Scene:
    """A film to make: where, seen how, and the window of the simulated traffic to show.

    The window starts at `start_step` and lasts `frames`, one frame a simulated step; with
    `frames` 0 it lasts from the first vehicle to the last: it starts and ends with an empty
    view, so that it can be repeated without a jump.
    """

    name: str
    junction: Junction
    camera: Camera
    houses: tuple[House, ...]
    seed: int
    start_step: int
    frames: int
    run_s: float
    reckless: float = 0.0
    wreck_s: float = 25.0
    stops_per_min: float = 0.0
    quiet_tail_s: float = 0.0


@dataclass(frozen=True)
class Shot:
    """One frame: picture, the traffic's states in it, and what of it can be seen."""

    image: Image
    states: npt.NDArray[np.void]
    seen: list[Seen]


@dataclass(frozen=True)
class Film:
    """A scene's traffic and the steps of it that are shown."""

    scene: Scene
    traffic: Traffic
    first_step: int
    frames: int

    @property
    def collisions(self) -> list[Collision]:
        """The collisions whose impact is shown."""
        end = self.first_step + self.frames
        return [c for c in self.traffic.collisions if self.first_step <= c.step < end]

    def shoot(self) -> Iterator[Shot]:
        """Draw the frames one after another."""
        camera = self.scene.camera
        empty = background.draw(
            camera,
            self.traffic.roads,
            self.scene.houses,
            LOOK_SEED,
            render.OVERSAMPLING,
        )
        renderer = render.Renderer(camera, empty, self.scene.seed)
        speeds: dict[int, float] = {}
        for step in range(self.first_step, self.first_step + self.frames):
            states = self.traffic.at(step)
            image, seen = renderer.frame([self._actor(s, step, speeds) for s in states])
            speeds = {int(s["track"]): float(s["speed"]) for s in states}
            yield Shot(image, states, seen)

    def _actor(self, state: np.void, step: int, speeds: dict[int, float]) -> Actor:
        track = int(state["track"])
        speed = float(state["speed"])
        slower = speeds.get(track, speed) - speed
        crashed = any(
            track in c.tracks and c.step < step < c.cleared_step for c in self.traffic.collisions
        )
        look = self.traffic.tracks[track]
        return Actor(
            track=track,
            kind=look.kind,
            x=float(state["x"]),
            y=float(state["y"]),
            heading=float(state["heading"]),
            length=look.length,
            width=look.width,
            braking=speed < 0.5 or slower > BRAKING_M_S2 * STEP_S,
            hazard=crashed and step % 8 < 4,
        )


def prepare(scene: Scene) -> Film:
    """Simulate a scene's traffic and find the frames to show."""
    traffic = simulate(
        scene.seed,
        scene.run_s / 3600,
        scene.reckless,
        junction=scene.junction,
        wreck_s=scene.wreck_s,
        stops_per_min=scene.stops_per_min,
        quiet_tail_s=scene.quiet_tail_s,
    )
    if scene.frames:
        return Film(scene, traffic, scene.start_step, scene.frames)
    first, last = (int(traffic.states["step"][i]) for i in (0, -1))
    return Film(scene, traffic, first, last - first + 1)


_SEOUL = Junction(
    arms=tuple(Arm(a, 2, 13.9) for a in (0.05, math.pi / 2 - 0.04, math.pi + 0.02, -math.pi / 2)),
    signals=True,
    demand_per_h=1300,
    arm_length_m=150,
)
_SEOUL_HOUSES = (
    House(35, -32, 36, 20, 0, 16),
    House(-32, -38, 30, 22, 0, 12),
    House(80, -40, 40, 30, 0, 22),
    House(35, -95, 40, 30, 0, 25),
    House(-38, -85, 30, 30, 0, 20),
    House(60, 32, 50, 20, 0, 14),
    House(120, 0, 20, 120, 0, 18),
)
_SEOUL_CAMERA = Camera(eye=(-17, 19, 9), target=(3, -4, 0), field_deg=62)
_BUSAN = Junction(
    arms=(
        Arm(0.45, 2, 13.9),
        Arm(0.45 + 0.55 * math.pi, 1, 11.1),
        Arm(0.45 + 1.02 * math.pi, 2, 13.9),
    ),
    signals=True,
    demand_per_h=1800,
    arm_length_m=150,
)
_BUSAN_HOUSES = (
    House(20, 52, 30, 18, 0.45, 11),
    House(55, 62, 30, 22, 0.45, 17),
    House(-50, 30, 26, 20, 0.45, 14),
    House(30, 100, 60, 25, 0.45, 21),
    House(-60, 80, 40, 25, 0.45, 16),
)
_BUSAN_CAMERA = Camera(eye=(-3, -24, 11), target=(1, 4, 0), field_deg=62)

SCENES = {
    scene.name: scene
    for scene in (
        Scene(
            "seoul-accident", _SEOUL, _SEOUL_CAMERA, _SEOUL_HOUSES, seed=296, start_step=442,
            frames=600, run_s=130, reckless=0.3, wreck_s=23,
        ),
        Scene(
            "seoul-normal", _SEOUL, _SEOUL_CAMERA, _SEOUL_HOUSES, seed=11, start_step=0,
            frames=0, run_s=80, quiet_tail_s=48,
        ),
        Scene(
            "busan-normal", _BUSAN, _BUSAN_CAMERA, _BUSAN_HOUSES, seed=45, start_step=0,
            frames=0, run_s=110, quiet_tail_s=78, stops_per_min=4.0,
        ),
    )
}  # fmt: skip


def short(scene: Scene, frames: int) -> Scene:
    """Return the scene cut to its first `frames` frames."""
    return replace(scene, frames=frames)
