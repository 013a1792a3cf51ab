"""Traffic at one junction: SUMO moves the vehicles, the impact model moves the colliding ones."""

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libsumo
import numpy as np
import numpy.typing as npt
import sumo
from libsumo import constants

from .geometry import Rectangle
from .impact import Body, aftermath, collision_kind
from .junction import (
    RECKLESS,
    VEHICLE_TYPES,
    Junction,
    random_junction,
    write_demand,
    write_network,
)

STEP_S = 0.1
RADIUS_M = 70.0
STOP_CHANCE_STEPS = 50
STATES = np.dtype(
    [
        ("step", np.int32),
        ("track", np.int32),
        ("x", np.float32),
        ("y", np.float32),
        ("heading", np.float32),
        ("speed", np.float32),
    ]
)


@dataclass(frozen=True)
class Track:
    """A vehicle seen near the junction: its class (car, van, truck, bus, motorcycle) and size."""

    kind: str
    length: float
    width: float


@dataclass(frozen=True)
class Collision:
    """Two tracks that touched: when, how (rear_end, side, head_on), how hard, and until when.

    `delta_v` is the larger change of velocity of both, m/s; the wrecks are gone from
    `cleared_step` on.
    """

    step: int
    tracks: tuple[int, int]
    kind: str
    delta_v: float
    x: float
    y: float
    cleared_step: int


@dataclass(frozen=True)
class Stop:
    """A harmless halt in a lane that the simulation ordered."""

    step: int
    track: int


@dataclass(frozen=True)
class Lane:
    """A lane's centre line (n, 2), width (m) and whether it leads in, out, or across."""

    points: npt.NDArray[np.float64]
    width: float
    role: str


@dataclass(frozen=True)
class Roads:
    """What the ground looks like: lanes, and the outline of the junction's area."""

    lanes: tuple[Lane, ...]
    outline: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Everything that happened within RADIUS_M of the junction, at 10 Hz.

    `states` is a structured array (STATES) sorted by step, then track: centre (m), heading
    (rad, 0 = east, counter-clockwise), speed (m/s).
    """

    junction: Junction
    roads: Roads
    steps: int
    tracks: dict[int, Track]
    states: npt.NDArray[np.void]
    collisions: tuple[Collision, ...]
    stops: tuple[Stop, ...]

    def at(self, step: int) -> npt.NDArray[np.void]:
        """Return the states of one step."""
        low, high = np.searchsorted(self.states["step"], [step, step + 1])
        return self.states[low:high]


@dataclass(frozen=True)
class _Hit:
    step: int
    tracks: tuple[int, int]


def simulate(
    seed: int,
    hours: float,
    reckless: float = 0.12,
    *,
    junction: Junction | None = None,
    wreck_s: float = 60.0,
    stops_per_min: float = 0.35,
    quiet_tail_s: float = 0.0,
) -> Traffic:
    """Simulate traffic at a junction (a random one by `seed` unless given).

    `reckless` is the share of drivers that provoke collisions (0 = none, and none happens),
    `wreck_s` how long wrecks stay, `stops_per_min` how often a vehicle halts in its lane for no
    visible reason, `quiet_tail_s` how long before the end vehicles no more set off or halt like
    this. SUMO keeps its state in the process: one call at a time in a process.
    """
    place = junction or random_junction(seed)
    os.environ["SUMO_HOME"] = sumo.SUMO_HOME
    steps = round(hours * 3600 / STEP_S)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = write_network(place, folder)
        demand = write_demand(place, reckless, hours * 3600 - quiet_tail_s, seed, folder)
        libsumo.start(
            [
                "sumo", "-n", str(network), "-r", str(demand), "--seed", str(seed),
                "--step-length", str(STEP_S), "--time-to-teleport", "300",
                "--collision.action", "remove", "--collision.stoptime", str(wreck_s),
                "--collision.check-junctions", "true", "--collision.mingap-factor", "0",
                "--no-warnings", "true", "--no-step-log", "true",
            ]
        )  # fmt: skip
        try:
            lively = steps - round(quiet_tail_s / STEP_S)
            return _run(place, steps, lively, seed, stops_per_min)
        finally:
            libsumo.close()


def _run(place: Junction, steps: int, lively: int, seed: int, stops_per_min: float) -> Traffic:
    rnd = random.Random(seed)
    libsumo.junction.subscribeContext(
        "c",
        constants.CMD_GET_VEHICLE_VARIABLE,
        RADIUS_M,
        [
            constants.VAR_POSITION,
            constants.VAR_ANGLE,
            constants.VAR_SPEED,
            constants.VAR_TYPE,
        ],
    )
    roads = _roads()
    ids: dict[str, int] = {}
    tracks: dict[int, Track] = {}
    rows: list[tuple[int, int, float, float, float, float]] = []
    hits: dict[tuple[int, int], _Hit] = {}
    ordered: list[tuple[int, str]] = []
    chance = stops_per_min * STOP_CHANCE_STEPS * STEP_S / 60
    for step in range(steps):
        libsumo.simulationStep()
        for name, seen in libsumo.junction.getContextSubscriptionResults("c").items():
            track = ids.setdefault(name, len(ids) + 1)
            if track not in tracks:
                kind = VEHICLE_TYPES[seen[constants.VAR_TYPE].removesuffix(RECKLESS)]
                tracks[track] = Track(kind.name, kind.length, kind.width)
            heading = np.deg2rad(90 - seen[constants.VAR_ANGLE])
            # SUMO's position is the middle of the front bumper.
            back = tracks[track].length / 2
            x, y = seen[constants.VAR_POSITION]
            rows.append(
                (
                    step,
                    track,
                    x - back * np.cos(heading),
                    y - back * np.sin(heading),
                    heading,
                    seen[constants.VAR_SPEED],
                )
            )
        for c in libsumo.simulation.getCollisions():
            if c.collider in ids and c.victim in ids:
                pair = (ids[c.collider], ids[c.victim])
                hits.setdefault(pair, _Hit(step, pair))
        if step < lively and step % STOP_CHANCE_STEPS == 0 and rnd.random() < chance:
            halted = _order_stop(rnd)
            if halted:
                ordered.append((step, halted))
    stops = tuple(Stop(step, ids[name]) for step, name in ordered if name in ids)
    states = np.array(rows, STATES)
    states.sort(order=["step", "track"])
    collisions = tuple(_apply_impacts(states, tracks, list(hits.values()), rnd))
    return Traffic(place, roads, steps, tracks, states, collisions, stops)


def _order_stop(rnd: random.Random) -> str | None:
    """Let one vehicle that approaches the junction halt in its lane; returns its name."""
    names = [
        v
        for v in libsumo.vehicle.getIDList()
        if libsumo.vehicle.getRoadID(v).startswith("i")
        and RECKLESS not in v
        and libsumo.lane.getLength(libsumo.vehicle.getLaneID(v))
        > libsumo.vehicle.getLanePosition(v) + 60
    ]
    if not names:
        return None
    name: str = rnd.choice(names)
    length = libsumo.lane.getLength(libsumo.vehicle.getLaneID(name))
    nearest = max(length - 60, libsumo.vehicle.getLanePosition(name) + 45)
    try:
        libsumo.vehicle.setStop(
            name,
            libsumo.vehicle.getRoadID(name),
            rnd.uniform(nearest, length - 5),
            libsumo.vehicle.getLaneIndex(name),
            rnd.uniform(15, 60),
        )
    except libsumo.TraCIException:
        # The vehicle is too fast to stop there, or changes its lane before: no stop then.
        return None
    return name


def _apply_impacts(
    states: npt.NDArray[np.void],
    tracks: dict[int, Track],
    hits: list[_Hit],
    rnd: random.Random,
) -> Iterator[Collision]:
    """Replace the frozen poses of colliding vehicles in `states` by those of the impact model."""
    rows_of = {k: np.flatnonzero(states["track"] == k) for h in hits for k in h.tracks}
    wrecked: set[int] = set()
    for hit in sorted(hits, key=lambda h: h.step):
        body_a, body_b = (
            _body_at(states, rows_of[k], tracks[k], hit.step, k in wrecked) for k in hit.tracks
        )
        after = {k: rows_of[k][states["step"][rows_of[k]] > hit.step] for k in hit.tracks}
        steps = max(len(rows) for rows in after.values())
        friction = rnd.uniform(0.45, 0.7)
        path_a, path_b, delta_v = aftermath(body_a, body_b, friction, steps, STEP_S)
        for k, path in zip(hit.tracks, (path_a, path_b), strict=True):
            if k in wrecked:
                continue
            for row, body in zip(after[k], path, strict=False):
                o = body.outline
                states["x"][row], states["y"][row] = o.x, o.y
                states["heading"][row] = o.heading
                states["speed"][row] = np.linalg.norm(body.velocity)
            wrecked.add(k)
        a, b = body_a.outline, body_b.outline
        last = max(int(states["step"][rows_of[k][-1]]) for k in hit.tracks)
        yield Collision(
            hit.step,
            hit.tracks,
            collision_kind(a, b),
            delta_v,
            (a.x + b.x) / 2,
            (a.y + b.y) / 2,
            last + 1,
        )


def _body_at(
    states: npt.NDArray[np.void],
    rows: npt.NDArray[np.intp],
    track: Track,
    step: int,
    at_rest: bool,
) -> Body:
    row = rows[np.searchsorted(states["step"][rows], step).clip(max=len(rows) - 1)]
    before = states[rows[max(np.searchsorted(rows, row) - 1, 0)]]
    s = states[row]
    heading = float(s["heading"])
    speed = 0.0 if at_rest else float(before["speed"])
    return Body(
        Rectangle(float(s["x"]), float(s["y"]), heading, track.length, track.width),
        VEHICLE_TYPES[track.kind].mass_kg,
        speed * np.array([np.cos(heading), np.sin(heading)]),
    )


def _roads() -> Roads:
    lanes = []
    for lane in libsumo.lane.getIDList():
        role = {"i": "in", "x": "out", ":": "across"}[lane[0]]
        points = np.array(libsumo.lane.getShape(lane), float)
        lanes.append(Lane(points, libsumo.lane.getWidth(lane), role))
    return Roads(tuple(lanes), np.array(libsumo.junction.getShape("c"), float))
