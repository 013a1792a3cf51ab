"""The role builds real Go programs, moves them to controllers that build nothing, and refuses what is damaged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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
        """Run the role; its output and its warnings, on one line."""
        arguments = {
            "__bundle_repo": str(self.checkout),
            "bundle_cache": str(self.folder / "cache"),
            "bundle_view": str(self.folder / "view"),
            "bundle_packages": [],
            "bundle_signing_key": str(self.folder / "bundle.key"),
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
        return " ".join((done.stdout + done.stderr).split())

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
    said = here.run()
    assert "Build one (1 of 2, 1 min on two idle cores)" in said and "Build two (2 of 2, about 1 min left)" in said, (
        said
    )
    assert here.built() == {"one", "two"}
    assert (here.says("one"), here.says("two")) == ("hello", "hello")

    bill = json.loads((here.folder / "view.cdx.json").read_text())
    assert "pkg:golang/example.test/greeting@v1.0.0" in {part.get("purl") for part in bill["components"]}

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


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a web server that has the folder ``mirror``."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "mirror").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_what_one_controller_publishes_others_fetch_or_build(checkout: Path, mirror: str, tmp_path: Path) -> None:
    here = Controller(tmp_path / "here", checkout)
    said = here.run(f"bundle_publish_to={tmp_path}/mirror")
    key = re.search(r"bundle_mirror_key: (ssh-ed25519 \S+)", said)
    assert key, said
    assert "changed=0" in here.run(f"bundle_publish_to={tmp_path}/mirror")
    use = (f"bundle_mirror={mirror}", json.dumps({"bundle_mirror_key": key[1]}))

    away = Controller(tmp_path / "away", checkout)
    assert "Fetch two (2 of 2)" in away.run(*use)
    assert not away.built()
    assert (away.says("one"), away.says("two")) == ("hello", "hello")

    (program,) = (tmp_path / "mirror/one").glob("*.tar.gz")
    content = program.read_bytes()
    program.write_bytes(content[:-1] + b"?")
    forged = Controller(tmp_path / "forged", checkout)
    said = forged.run(*use, ok=False)
    assert "is not what was signed" in said, said
    assert not forged.built() and not (forged.folder / "view").exists()

    program.unlink()
    pin(checkout, "two", "v2")
    alone = Controller(tmp_path / "alone", checkout)
    said = alone.run(*use)
    assert "it has no one/" in said and "one will be built here." in said, said
    assert alone.built() == {"one", "two"}
    assert (alone.says("one"), alone.says("two")) == ("hello", "good day")


def test_a_mirror_that_does_not_answer_is_done_without(checkout: Path, tmp_path: Path) -> None:
    alone = Controller(tmp_path / "alone", checkout)
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
    said = alone.run(f"bundle_mirror={tmp_path}/none", json.dumps({"bundle_mirror_key": key}))
    assert "there is no such folder. 2 components will be built here." in said, said
    assert (alone.says("one"), alone.says("two")) == ("hello", "hello")
