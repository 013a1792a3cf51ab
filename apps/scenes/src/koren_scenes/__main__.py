"""Films of simulated junctions, and recordings in the same format."""

import argparse
import json
import shutil
from pathlib import Path

from . import truth
from .scenes import FPS, SCENES, Scene, prepare, short
from .video import Encoder, transcode


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
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="koren_scenes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    film = commands.add_parser("render", help="film one scene and write its ground truth")
    film.add_argument("scene", choices=sorted(SCENES))
    film.add_argument("folder", type=Path, metavar="OUT_DIR")
    film.add_argument("--frames", type=int, help="only so many frames from the start")
    recode = commands.add_parser("encode", help="bring a recording into the films' format")
    recode.add_argument("source", type=Path)
    recode.add_argument("target", type=Path)
    arguments = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        parser.error("ffmpeg is not installed; on Debian: apt install ffmpeg")
    if arguments.command == "encode":
        transcode(arguments.source, arguments.target, FPS)
        return
    scene = SCENES[arguments.scene]
    render(short(scene, arguments.frames) if arguments.frames else scene, arguments.folder)


if __name__ == "__main__":
    main()
