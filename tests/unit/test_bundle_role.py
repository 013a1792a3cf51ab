"""The role builds a real Go program, moves it to a controller that builds nothing, and refuses what is damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROGRAM = """package main

import "example.test/greeting"

func main() { print(greeting.Text) }
"""


@dataclass
class Controller:
    """A machine's cache and links, and the checkout that its bundle is made from."""

    folder: Path
    checkout: Path

    def run(self, *variables: str, ok: bool = True) -> str:
        """Run the role; its output, on one line."""
        arguments = {
            "__bundle_repo": str(self.checkout),
            "bundle_cache": str(self.folder / "cache"),
            "bundle_view": str(self.folder / "view"),
            "bundle_packages": [],
        }
        playbook = [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", "-e", json.dumps(arguments)]
        playbook += ["-e", f"ansible_python_interpreter={sys.executable}"]
        done = subprocess.run(
            [*playbook, *(word for name in variables for word in ("-e", name)), "playbooks/bundle.yml"],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    def says(self, program: str) -> str:
        """What a program of the bundle prints."""
        return subprocess.run([self.folder / "view" / program / "run"], capture_output=True, text=True).stderr

    def built(self) -> set[str]:
        """Which components were built here, since this was last asked."""
        logs = list(self.folder.glob("cache/logs/*.log"))
        for log in logs:
            log.unlink()
        return {log.stem for log in logs}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two Go programs; each one's go.mod pins one of two versions of a library."""
    for version, text in (("v1", "hello"), ("v2", "good day")):
        library = tmp_path / "library" / version
        library.mkdir(parents=True)
        (library / "go.mod").write_text("module example.test/greeting\n\ngo 1.24\n")
        (library / "greeting.go").write_text(f'package greeting\n\nconst Text = "{text}"\n')
    for name in ("one", "two"):
        recipe = tmp_path / "checkout" / "bundle" / name
        recipe.mkdir(parents=True)
        (recipe / "main.go").write_text(PROGRAM)
        (recipe / "build.sh").write_text('go build -trimpath -ldflags "-s -w" -o "$OUT/run"\n')
        pin(tmp_path / "checkout", name, "v1")
    return tmp_path / "checkout"


def pin(checkout: Path, name: str, version: str) -> None:
    """Have a program use this version of the library."""
    (checkout / "bundle" / name / "go.mod").write_text(
        "module example.test/program\n\ngo 1.24\n\nrequire example.test/greeting v1.0.0\n\n"
        f"replace example.test/greeting => {checkout.parent}/library/{version}\n"
    )


def test_from_pins_to_programs_here_and_where_nothing_can_be_built(checkout: Path, tmp_path: Path) -> None:
    here = Controller(tmp_path / "here", checkout)
    here.run()
    assert here.built() == {"one", "two"}
    assert (here.says("one"), here.says("two")) == ("hello", "hello")

    pin(checkout, "two", "v2")
    here.run()
    assert here.built() == {"two"}
    assert (here.says("one"), here.says("two")) == ("hello", "good day")

    program = (here.folder / "view" / "one" / "run").resolve()
    content = program.read_bytes()
    program.write_bytes(content[:-1] + b"?")
    assert "changed=0" in here.run()
    assert not here.built()
    archive = tmp_path / "koren.tar"
    here.run("bundle_verify=true", f"bundle_archive_to={archive}")
    assert here.built() == {"one"}
    assert program.read_bytes() == content
    assert "changed=0" in here.run(f"bundle_archive_to={archive}")

    away = Controller(tmp_path / "away", checkout)
    content = archive.read_bytes()
    (cut := tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    said = away.run(f"bundle_archive={cut}", ok=False)
    assert f"bundle_archive {cut}" in said and "cut" in said.partition(str(cut))[2], said
    assert not list(away.folder.glob("cache/components/*")) and not (away.folder / "view" / "one").exists()

    away.run(f"bundle_archive={archive}")
    assert not away.built()
    assert (away.says("one"), away.says("two")) == ("hello", "good day")
    shutil.rmtree(tmp_path / "library")
    archive.unlink()
    assert "changed=0" in away.run(f"bundle_archive={archive}")
