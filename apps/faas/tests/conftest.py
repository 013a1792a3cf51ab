# SPDX-License-Identifier: Apache-2.0
"""A site whose bundle holds a small runtime image, made of this machine's own Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from koren_faas import Function, Site


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle with a runtime image of the same shape as the real one: Python and user 65532."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    folder = tmp_path_factory.mktemp("bundle")
    root = folder / "root"
    stdlib = Path(sysconfig.get_path("stdlib"))
    python = Path(sys.executable).resolve()
    target = root / "usr/bin/python3.11"
    target.parent.mkdir(parents=True)
    shutil.copy(python, target)
    shutil.copytree(
        stdlib,
        root / str(stdlib).lstrip("/"),
        ignore=shutil.ignore_patterns(
            "test", "idlelib", "config-*", "site-packages", "__pycache__"
        ),
    )
    for link in ("lib", "lib64"):
        (root / "usr" / link).mkdir(exist_ok=True)
        (root / link).symlink_to(f"usr/{link}")
    linked = subprocess.run(
        ["ldd", python, *(stdlib / "lib-dynload").glob("*.so")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for library in set(re.findall(r"(/\S+\.so\S*) \(", linked)):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)

    runtime = root / "opt/koren/koren_runtime/state.py"
    runtime.parent.mkdir(parents=True)
    runtime.write_text("get = put = None\n")

    container = _buildah("from", "scratch")
    try:
        _buildah("add", "--quiet", container, str(root), "/")
        start = ["/usr/bin/python3.11", "-I", "-S", "/opt/koren/koren_runtime/start.pyc"]
        _buildah("config", "--user", "65532:65532", "--entrypoint", json.dumps(start), container)
        image = folder / "runtime/image.tar"
        image.parent.mkdir()
        _buildah(
            *("commit", "--quiet", "--format", "oci", container),
            f"oci-archive:{image}:bundle.koren.internal/runtime:faas-tests",
        )
    finally:
        _buildah("rm", container)
    shutil.rmtree(root)
    yield folder
    # What the builds pulled into this machine's storage.
    subprocess.run(
        ["buildah", "rmi", "bundle.koren.internal/runtime:faas-tests"],
        check=False,
        capture_output=True,
    )


@pytest.fixture
def site(bundle: Path, tmp_path: Path) -> Site:
    """A site of three regions that nobody answers for."""
    return Site.load(site_folder(tmp_path / "site", bundle))


def site_folder(folder: Path, bundle: Path) -> Path:
    """Write the state of a site as the playbooks do."""
    folder.mkdir()
    regions = {
        name: {"nodes": [f"{name}-cp"], "broker": "192.0.2.1", "context": name}
        for name in ("central", "seoul", "busan")
    }
    content = {"site": "test", "bundle": str(bundle), "regions": regions}
    (folder / "site.json").write_text(json.dumps(content))
    contexts = [{"name": name, "context": {"cluster": name, "user": name}} for name in regions]
    # Port 9 of this machine: refused at once.
    clusters = [{"name": name, "cluster": {"server": "https://127.0.0.1:9"}} for name in regions]
    users = [{"name": name, "user": {"token": "none"}} for name in regions]
    kubeconfig = {"contexts": contexts, "clusters": clusters, "users": users}
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Function]:
    """Write a function's code, and requirements if any, and describe it."""

    def function(code: str, requirements: str | None = None, **options: object) -> Function:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        (folder / "hello.py").write_text(code)
        dependencies = None
        if requirements is not None:
            dependencies = tmp_path / "requirements.txt"
            dependencies.write_text(requirements)
        return Function(
            name="hello",
            handler="hello.handler",
            source=folder,
            dependencies=dependencies,
            **options,  # type: ignore[arg-type]
        )

    return function


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one package, greeting 1.2, which needs manners 0.3."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    _wheel(folder, "manners", "0.3", "PLEASE = 'please'\n")
    _wheel(folder, "greeting", "1.2", "from manners import PLEASE\n", needs="manners")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _wheel(folder: Path, name: str, version: str, code: str, needs: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    need = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{need}"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def _buildah(*arguments: str) -> str:
    return subprocess.run(
        ["buildah", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()
