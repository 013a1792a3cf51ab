"""Render a named scene: `python -m koren_scenes render SCENE OUT_DIR`."""

import argparse
import json
from pathlib import Path

from . import truth
from .scenes import FPS, SCENES, Scene, prepare, short
from .video import Encoder


def render(scene: Scene, folder: Path) -> None:
    """Write `<scene>.mp4` and `<scene>.json` into `folder`."""
    film = prepare(scene)
    frames = []
    folder.mkdir(parents=True, exist_ok=True)
    camera = scene.camera
    with Encoder(folder / f"{scene.name}.mp4", camera.width, camera.height, FPS) as encoder:
        for shot in film.shoot():
            encoder.write(shot.image)
            frames.append(truth.frame_truth(film, shot))
    text = json.dumps(truth.document(film, frames), separators=(",", ":"))
    (folder / f"{scene.name}.json").write_text(text + "\n")


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(prog="koren_scenes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("render", help="film one scene and write its ground truth")
    command.add_argument("scene", choices=sorted(SCENES))
    command.add_argument("folder", type=Path, metavar="OUT_DIR")
    command.add_argument("--frames", type=int, help="only so many frames from the start")
    arguments = parser.parse_args()
    scene = SCENES[arguments.scene]
    render(short(scene, arguments.frames) if arguments.frames else scene, arguments.folder)


if __name__ == "__main__":
    main()
