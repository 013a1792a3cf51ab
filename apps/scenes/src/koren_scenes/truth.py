"""The ground truth of a film as a JSON document."""

from typing import Any

import numpy as np

from .scenes import FPS, Film, Shot
from .traffic import Collision


def frame_truth(film: Film, shot: Shot) -> dict[str, Any]:
    """Describe the vehicles in sight of one frame."""
    states = {int(s["track"]): s for s in shot.states}
    vehicles = []
    for seen in shot.seen:
        state = states[seen.track]
        look = film.traffic.tracks[seen.track]
        vehicles.append(
            {
                "track": seen.track,
                "class": look.kind,
                "box": [round(v, 1) for v in seen.box],
                "visible": round(seen.visible, 2),
                "x": round(float(state["x"]), 2),
                "y": round(float(state["y"]), 2),
                "heading": round(float(state["heading"]), 3),
                "speed": round(float(state["speed"]), 2),
                "length": look.length,
                "width": look.width,
            }
        )
    return {"vehicles": vehicles}


def document(film: Film, frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the frames' truths to the document that lies beside the film.

    `homography` maps ground points (x, y, 1) in metres to image points (u, v, 1) in pixels, up
    to scale; times are seconds from the film's start.
    """
    camera = film.scene.camera
    return {
        "scene": film.scene.name,
        "fps": FPS,
        "width": camera.width,
        "height": camera.height,
        "homography": np.round(camera.homography / camera.homography[2, 2], 9).tolist(),
        "camera": {
            "eye": list(camera.eye),
            "target": list(camera.target),
            "field_deg": camera.field_deg,
        },
        "incidents": [_incident(film, c) for c in film.collisions],
        "frames": frames,
    }


def _incident(film: Film, collision: Collision) -> dict[str, Any]:
    impact = collision.step - film.first_step
    cleared = min(collision.cleared_step - film.first_step, film.frames)
    return {
        "kind": collision.kind,
        "tracks": list(collision.tracks),
        "delta_v": round(collision.delta_v, 2),
        "x": round(collision.x, 2),
        "y": round(collision.y, 2),
        "frame": impact,
        "time_s": impact / FPS,
        "cleared_frame": cleared,
        "cleared_time_s": cleared / FPS,
    }
