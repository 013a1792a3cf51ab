"""A road junction and its demand, as SUMO's input files. Right-hand traffic."""

import math
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import sumo


@dataclass(frozen=True)
class VehicleType:
    """A kind of vehicle: its class name, SUMO's class, size (m), mass and share of the traffic."""

    name: str
    sumo_class: str
    length: float
    width: float
    mass_kg: float
    share: float


VEHICLE_TYPES = {
    kind.name: kind
    for kind in (
        VehicleType("car", "passenger", 4.5, 1.8, 1500, 0.76),
        VehicleType("van", "delivery", 5.2, 1.95, 2200, 0.09),
        VehicleType("truck", "truck", 8.5, 2.4, 9000, 0.05),
        VehicleType("bus", "bus", 11.5, 2.5, 12000, 0.04),
        VehicleType("motorcycle", "motorcycle", 2.2, 0.8, 250, 0.06),
    )
}
RECKLESS = "_reckless"
# Stop lines lie this far before the junction, with a zebra crossing between.
STOP_LINE_M = 5.0


@dataclass(frozen=True)
class Arm:
    """A road into the junction: its direction from the centre (rad), lanes each way, limit."""

    angle: float
    lanes: int
    speed_m_s: float


@dataclass(frozen=True)
class Junction:
    """Arms that meet at the origin, their control, and the traffic that wants to cross.

    `demand_per_h` counts vehicles over all arms.
    """

    arms: tuple[Arm, ...]
    signals: bool
    demand_per_h: float
    arm_length_m: float = 300.0


def random_junction(seed: int) -> Junction:
    """Draw a junction of three to five arms for training; the same seed, the same junction."""
    rnd = random.Random(seed)
    count = rnd.choice([3, 4, 4, 4, 5])
    signals = rnd.random() < 2 / 3
    arms = tuple(
        Arm(
            2 * math.pi * (i + rnd.uniform(-0.18, 0.18)) / count,
            rnd.choice([1, 2, 2, 3]),
            rnd.choice([11.1, 13.9, 16.7]),
        )
        for i in range(count)
    )
    return Junction(arms, signals, rnd.uniform(400, 1050))


def write_network(junction: Junction, folder: Path) -> Path:
    """Build SUMO's network of a junction in `folder` and return its path.

    Raises RuntimeError with netconvert's own words when the junction cannot be built.
    """
    nodes = [
        '<node id="c" x="0" y="0" type="%s"/>'
        % ("traffic_light" if junction.signals else "priority")
    ]
    edges = []
    for i, arm in enumerate(junction.arms):
        x, y = (junction.arm_length_m * f(arm.angle) for f in (math.cos, math.sin))
        nodes.append(f'<node id="o{i}" x="{x:.2f}" y="{y:.2f}"/>')
        common = f'numLanes="{arm.lanes}" speed="{arm.speed_m_s}" priority="{3 - 2 * (i % 2)}"'
        edges.append(f'<edge id="i{i}" from="o{i}" to="c" endOffset="{STOP_LINE_M}" {common}/>')
        edges.append(f'<edge id="x{i}" from="c" to="o{i}" {common}/>')
    (folder / "n.nod.xml").write_text(f"<nodes>{''.join(nodes)}</nodes>")
    (folder / "n.edg.xml").write_text(f"<edges>{''.join(edges)}</edges>")
    network = folder / "net.xml"
    made = subprocess.run(
        [
            os.path.join(sumo.SUMO_HOME, "bin", "netconvert"),
            "-n", str(folder / "n.nod.xml"), "-e", str(folder / "n.edg.xml"), "-o", str(network),
            "--no-turnarounds", "--offset.disable-normalization",
            "--junctions.corner-detail", "5", "--junctions.internal-link-detail", "10",
            "--tls.cycle.time", "60",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        raise RuntimeError(f"netconvert refused the junction: {made.stderr.strip()}")
    return network


def write_demand(
    junction: Junction, reckless: float, end_s: float, seed: int, folder: Path
) -> Path:
    """Write the vehicle types and random flows between all arms; returns the file's path."""
    rnd = random.Random(seed)
    lines = ["<routes>"]
    for kind in VEHICLE_TYPES.values():
        size = f'vClass="{kind.sumo_class}" length="{kind.length}" width="{kind.width}"'
        lines.append(
            f'<vType id="{kind.name}" {size} sigma="0.6" minGap="1.5"'
            ' speedFactor="normc(1.0,0.12,0.7,1.4)" impatience="0.3"/>'
        )
        lines.append(
            f'<vType id="{kind.name}{RECKLESS}" {size} sigma="0.9" tau="0.35" minGap="0.4"'
            ' speedFactor="normc(1.25,0.15,0.9,1.7)" impatience="1" jmIgnoreFoeProb="0.6"'
            ' jmIgnoreFoeSpeed="15" jmIgnoreJunctionFoeProb="0.6" jmDriveAfterRedTime="2.5"'
            ' jmIgnoreKeepClearTime="1" lcAssertive="3"'
            f' actionStepLength="{rnd.choice([0.5, 0.8, 1.1])}"/>'
        )
    pairs = [(i, k) for i in range(len(junction.arms)) for k in range(len(junction.arms)) if i != k]
    for i, k in pairs:
        for name, kind in VEHICLE_TYPES.items():
            for suffix, part in (("", 1 - reckless), (RECKLESS, reckless)):
                rate = junction.demand_per_h / len(pairs) * kind.share * part / 3600
                if rate > 0:
                    lines.append(
                        f'<flow id="f{i}_{k}_{name}{suffix}" type="{name}{suffix}"'
                        f' from="i{i}" to="x{k}" begin="0" end="{end_s}"'
                        f' probability="{rate:.6f}" departLane="best" departSpeed="max"'
                        ' departPos="base"/>'
                    )
    path = folder / "routes.xml"
    path.write_text("\n".join([*lines, "</routes>"]))
    return path
