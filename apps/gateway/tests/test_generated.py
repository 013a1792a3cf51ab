"""The generated modules are what the protocol says."""

import shutil
import subprocess
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent.parent
FOLDER = Path("src/koren_gateway/scaling/externalscaler")


def test_the_modules_of_the_protocol_are_up_to_date(tmp_path: Path) -> None:
    shutil.copy(APP / "generate.sh", tmp_path)
    (tmp_path / FOLDER).mkdir(parents=True)
    shutil.copy(APP / FOLDER / "externalscaler.proto", tmp_path / FOLDER)
    subprocess.run(
        ["bash", tmp_path / "generate.sh"],
        check=True,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    for module in sorted((tmp_path / FOLDER).glob("*_pb2*")):
        assert module.read_text() == (APP / FOLDER / module.name).read_text(), module.name
