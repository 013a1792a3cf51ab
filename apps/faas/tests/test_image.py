# SPDX-License-Identifier: Apache-2.0
"""Images are really built here, with buildah, and the handler really imported in them."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from koren_faas import BuildError, Function, FunctionError, NotReadyError, Site, tools
from koren_faas.debian import unpack
from koren_faas.image import Image, build, forget_old, plan
from koren_faas.python import _target, install
from koren_faas.source import unpacked

Make = Callable[..., Function]
HANDLER = "def handler(event, context):\n    return event\n"


def _build(site: Site, function: Function) -> tuple[Image, list[str]]:
    said: list[str] = []
    image, source = plan(site, function)
    build(site, function, image, source, said.append)
    return image, said


def _files(image: Image) -> dict[str, tarfile.TarInfo]:
    """Path to entry, of the layer that the function adds to the runtime."""
    with tarfile.open(image.archive) as archive:

        def blob(digest: str) -> bytes:
            file = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file is not None
            return file.read()

        index_file = archive.extractfile("index.json")
        assert index_file is not None
        manifest = json.loads(blob(json.load(index_file)["manifests"][0]["digest"]))
        layer = io.BytesIO(blob(manifest["layers"][-1]["digest"]))
    with tarfile.open(fileobj=layer) as tar:
        return {member.name: member for member in tar if member.isfile()}


@pytest.fixture
def containers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """Those that builds of the test have made and that are there still; others may build beside it."""
    made: set[str] = set()

    def noted(*arguments: str) -> str:
        said = tools.buildah(*arguments)
        if arguments[0] == "from":
            made.add(said.strip())
        return said

    def left() -> set[str]:
        assert made
        listed = tools.buildah("containers", "--format", "{{.ContainerName}}")
        return made & set(listed.split())

    monkeypatch.setattr("koren_faas.image.buildah", noted)
    return left


def test_code_and_requirements_are_in_the_image_compiled(
    site: Site, make: Make, wheels: Path
) -> None:
    function = make("import greeting\n" + HANDLER, "greeting==1.2\nmanners==0.3\n")
    image, said = _build(site, function)
    files = _files(image)
    assert {
        "function/hello.py",
        "function/__pycache__/hello.cpython-311.pyc",
        "function/site-packages/greeting.py",
        "function/site-packages/__pycache__/manners.cpython-311.pyc",
    } <= set(files)
    entry = files["function/hello.py"]
    assert (entry.uid, entry.mode & 0o777) == (0, 0o644)
    assert image.requirements == ("greeting==1.2", "manners==0.3")
    assert not [line for line in said if "pin" in line]


def test_the_same_content_is_not_built_again(site: Site, make: Make) -> None:
    image, _ = _build(site, make(HANDLER))
    made = image.archive.stat().st_mtime_ns
    again, said = _build(site, make(HANDLER, timeout_s=7, env={"A": "b"}))
    assert again == image
    assert again.archive.stat().st_mtime_ns == made
    assert said == []


def test_what_is_not_pinned_is_said(site: Site, make: Make, wheels: Path) -> None:
    _, said = _build(site, make(HANDLER, "greeting==1.2\n"))
    assert any("does not pin manners==0.3" in line for line in said)


def test_a_handler_is_checked_with_the_environment_and_the_runtime_it_will_have_and_no_network(
    site: Site, make: Make
) -> None:
    code = (
        "import os, socket\n"
        "from koren_runtime import state\n"
        "assert os.environ['WORD'] == '$HOME $(A) $$'\n"
        "assert [name for _, name in socket.if_nameindex()] == ['lo']\n"
    )
    _, said = _build(site, make(code + HANDLER, env={"WORD": "$HOME $(A) $$", "A": "b"}))
    assert any("hello.handler imports in" in line for line in said)


def test_a_module_may_read_its_secrets_when_it_is_imported(site: Site, make: Make) -> None:
    code = "KEY = open('/run/secrets/sns/key').read()\n" + HANDLER
    _, said = _build(site, make(code, secrets=("sns",)))
    assert any("only in its region" in line and "/run/secrets/sns/key" in line for line in said)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import ctypes\nctypes.CDLL('libwave.so.9')\n", "'apt-file search libwave.so.9'"),
        (
            "raise ImportError('libGL.so.1: cannot open shared object file: No such file')\n",
            "lacks: libGL.so.1: cannot open shared object file",
        ),
        (
            "try:\n    import ctypes\n    ctypes.CDLL('libwave.so.9')\n"
            "except OSError as error:\n    raise RuntimeError('no sound') from error\n",
            "lacks: libwave.so.9",
        ),
        ("raise ImportError('/x.so: undefined symbol: deflate')\n", "built for Debian 12"),
        ("raise OSError('sndfile library not found')\n", "lacks: sndfile library not found"),
    ],
)
def test_a_system_library_that_is_missing_is_named_with_the_remedy(
    site: Site, make: Make, code: str, named: str
) -> None:
    with pytest.raises(FunctionError) as error:
        _build(site, make(code + HANDLER))
    assert named in str(error.value)
    assert "--packages" in str(error.value)
    assert not list(site.images.rglob("*.*"))


@pytest.mark.parametrize(
    "error",
    ["ConnectionRefusedError(111, 'Connection refused')", "type('Away', (OSError,), {})('sns')"],
)
def test_a_module_may_need_a_peer_of_its_region(site: Site, make: Make, error: str) -> None:
    _, said = _build(site, make(f"raise {error}\n" + HANDLER))
    assert any("only in its region" in line for line in said)


def test_debian_packages_are_in_the_image_with_what_they_need(
    site: Site, make: Make, debian: Path
) -> None:
    host = os.stat("/etc/hostname").st_mode
    code = (
        "import ctypes.util, os\n"
        "assert ctypes.CDLL('libwave.so.1').zlibVersion\n"
        "ctypes.CDLL('libBrokenLocale.so.1')\n"
        "assert ctypes.util.find_library('BrokenLocale')\n"
        "assert os.path.getsize('/usr/share/wave/notes')\n"
        "assert not os.path.exists('/usr/share/man')\n"
        "assert os.path.islink('/lib')\n"
    )
    function = make(code + HANDLER, packages=("libwave1",))
    image, said = _build(site, function)
    assert any("Installing Debian packages libwave1" in line for line in said)
    assert os.stat("/etc/hostname").st_mode == host
    # Other packages make another image; the order in which they are named does not.
    both = make(code + HANDLER, packages=("wave-data=1.2", "libwave1"))
    turned = make(code + HANDLER, packages=("libwave1", "wave-data=1.2"))
    assert plan(site, both)[0] == plan(site, turned)[0] != image
    _build(site, both)


def test_debian_packages_are_of_the_release_of_the_image(
    debian: Path, tmp_path: Path
) -> None:
    own = platform.freedesktop_os_release()["VERSION_CODENAME"]
    # The release's name is a part of the mirror's path.
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/{own} ./\n")
    debian.rename(tmp_path / "newer")
    status = tmp_path / "status"
    status.write_text(
        "Package: libbase1\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\n"
        "Status: install ok installed\n"
    )
    for release in ("newer", ""):
        scratch = tmp_path / f"scratch-{release}"
        scratch.mkdir()
        if release:
            root = unpack(("libwave1",), status, scratch, release)
            assert (root / "usr/share/wave/notes").is_file()
        else:
            with pytest.raises(BuildError, match="package lists"):
                unpack(("libwave1",), status, scratch)


def test_wheels_are_those_of_a_python_that_this_machine_lacks(
    make: Make, wheels: Path, tmp_path: Path
) -> None:
    machine = platform.machine()
    plain = wheels / "greeting-1.2-py3-none-any.whl"
    for tag in (f"cp313-cp313-manylinux_2_41_{machine}", f"cp311-cp311-manylinux_2_17_{machine}"):
        shutil.copy(plain, wheels / f"greeting-1.2-{tag}.whl")
    plain.unlink()
    function = make(HANDLER, "greeting==1.2\n", runtime="python3.13")
    assert function.dependencies is not None
    install(function, function.dependencies, tmp_path / "packages", sys.executable, _target("python3.13"))
    assert (tmp_path / "packages/greeting.py").is_file()
    (wheels / f"greeting-1.2-cp313-cp313-manylinux_2_41_{machine}.whl").unlink()
    with pytest.raises(BuildError, match=r"greeting==1\.2"):
        install(function, function.dependencies, tmp_path / "none", sys.executable, _target("python3.13"))


@pytest.mark.parametrize("package", ["libwav.1", "libwave1-", "libwave1=7"])
def test_a_package_that_is_not_to_be_had_is_named(
    site: Site, make: Make, debian: Path, package: str
) -> None:
    with pytest.raises(
        BuildError, match=r"Debian packages .* can't be installed: this machine's apt has no libwav"
    ):
        _build(site, make(HANDLER, packages=(package,)))
    assert not list(site.images.rglob("*.*"))


def test_an_archive_s_code_is_in_the_image(site: Site, make: Make, tmp_path: Path) -> None:
    folder = make("from words import WORD\n" + HANDLER)
    assert folder.source is not None
    (folder.source / "words.py").write_text("WORD = 1\n")
    packed = shutil.make_archive(str(tmp_path / "code"), "xztar", folder.source)
    function = replace(folder, source=Path(packed))
    with unpacked(function) as content:
        image, source = plan(site, function, content)
        build(site, function, image, source, lambda line: None)
    assert "function/words.py" in _files(image)
    # The same code makes the same image, however it comes.
    assert plan(site, folder)[0] == image


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import greeting\n" + HANDLER, "imports greeting, which is neither in"),
        ("def handle(event, context): ...\n", "no function handler; it has: handle"),
        ("handler = 3\n", "no function handler"),
        ("oops\n" + HANDLER, "name 'oops' is not defined"),
        ("import sys\nsys.exit(3)\n", "does not import"),
        ("import os\nos._exit(0)\n", "ended while it was imported"),
    ],
)
def test_a_handler_that_would_not_start_is_refused(
    site: Site, make: Make, code: str, named: str, containers: Callable[[], set[str]]
) -> None:
    function = make(code)
    with pytest.raises((FunctionError, BuildError)) as error:
        _build(site, function)
    assert named in str(error.value)
    assert "hello" in str(error.value)
    assert not list(site.images.rglob("*.*"))
    assert not containers()


def test_a_requirement_that_is_not_to_be_had_is_named(site: Site, make: Make, wheels: Path) -> None:
    function = make(HANDLER, "greeting==9.9\n")
    with pytest.raises(BuildError, match=r"(?s)requirements\.txt.*greeting==9\.9"):
        _build(site, function)
    assert not list(site.images.rglob("*.*"))


def test_a_bundle_without_the_runtime_is_told(site: Site, make: Make, tmp_path: Path) -> None:
    bare = Site(name="bare", dir=site.dir, regions=site.regions, bundle=tmp_path / "none")
    with pytest.raises(NotReadyError, match="build the bundle"):
        plan(bare, make(HANDLER))


def test_the_image_before_stays_older_ones_go(site: Site, make: Make) -> None:
    images = [plan(site, make(f"N = {n}\n" + HANDLER))[0] for n in range(3)]
    images[0].archive.parent.mkdir(parents=True)
    for when_s, image in enumerate(images):
        image.archive.touch()
        os.utime(image.archive, (when_s, when_s))
    forget_old(images[-1])
    assert [image.archive.exists() for image in images] == [False, True, True]
