"""A bundle from a mirror: what is fetched is what was signed, and what can't be had is built."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.koren.faas.plugins.module_utils import bundle_mirror
from ansible_collections.koren.faas.plugins.module_utils.bundle import BundleError, Entry, build, plan
from ansible_collections.koren.faas.plugins.module_utils.bundle_mirror import (
    Mirror,
    MirrorUnavailable,
    public_key,
    public_line,
    publish,
    signing_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st


class Server(SimpleHTTPRequestHandler):
    """A web server that knows no ranges, or does; and that can cut what it sends."""

    ranges = True
    cut_after: int | None = None
    sent: list[tuple[str, int]]
    page: bytes | None = None

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        content = path.read_bytes() if path.is_file() else self.page
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range") if self.ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        out = content[start:]
        if self.cut_after is not None and path.name.endswith(".gz"):
            out = out[: self.cut_after]
            self.close_connection = True
        self.sent.append((path.name, len(out)))
        self.wfile.write(out)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


Site = tuple[Path, Path, type[Server], str]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with two components, one with a program and a link."""
    recipes = {
        "data": "head -c 300000 /dev/urandom >$OUT/big\n",
        "program": "mkdir $OUT/bin; printf '#!/bin/sh\\necho hello\\n' >$OUT/bin/run; chmod 755 $OUT/bin/run\n"
        "ln -s bin/run $OUT/run\n",
    }
    for name, text in recipes.items():
        (tmp_path / "repo" / "bundle" / name).mkdir(parents=True)
        (tmp_path / "repo" / "bundle" / name / "build.sh").write_text(text)
    return tmp_path / "repo"


@pytest.fixture
def key(repo: Path, tmp_path: Path) -> str:
    """What those who fetch put into their inventories; the folder ``mirror`` has both components."""
    private = signing_key(tmp_path / "config" / "bundle.key")
    entries = plan(repo, tmp_path / "built", [], "go1")
    for entry in entries:
        build(repo, tmp_path / "built", entries, entry.name, [])
    for entry in plan(repo, tmp_path / "built", [], "go1"):
        assert publish(tmp_path / "mirror", entry, private)
    return public_line(private)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[type[Server]]:
    """The class that answers for the folder ``mirror``; its attributes are the server's manners."""
    handler = type("Manners", (Server,), {"sent": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "mirror"))) as httpd:
        handler.address = f"http://127.0.0.1:{httpd.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield handler
        httpd.shutdown()
        thread.join()


@pytest.fixture
def address(server: type[Server]) -> str:
    return server.address  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(autouse=True)
def no_detours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, and ask no proxy of this machine's."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(bundle_mirror.time, "sleep", lambda _: None)


def fetch(mirror: Mirror, repo: Path, cache: Path) -> list[Entry]:
    """Fetch all that is missing; what the cache has then."""
    for entry in plan(repo, cache, [], "go1"):
        mirror.fetch(cache, entry)
    return plan(repo, cache, [], "go1")


def nothing_taken(repo: Path, cache: Path) -> bool:
    return not any(entry.present for entry in plan(repo, cache, [], "go1")) and not (cache / "incoming").exists()


def find(tmp_path: Path, name: str, end: str) -> Path:
    (path,) = (tmp_path / "mirror" / name).glob(f"*{end}")
    return path


@pytest.mark.parametrize("way", ["http", "file", "path"])
def test_what_is_fetched_is_what_was_built(repo: Path, key: str, address: str, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "mirror"
    mirror = Mirror({"http": f"{address}/", "file": folder.as_uri(), "path": str(folder)}[way], key)
    cache = tmp_path / "cache"
    assert mirror.has(plan(repo, cache, [], "go1")) == ["data", "program"]
    before = {entry.name: entry.path for entry in plan(repo, tmp_path / "built", [], "go1")}
    for entry in fetch(mirror, repo, cache):
        assert entry.present
        assert subprocess.run(["diff", "-r", "--no-dereference", before[entry.name], entry.path]).returncode == 0
    assert subprocess.check_output([entry.path / "run"]) == b"hello\n"
    assert not list((cache / "downloads").iterdir())


def test_a_folder_with_a_name_that_addresses_write_otherwise_serves_too(
    repo: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror").rename(tmp_path / "our mirror, 100% ours")
    entries = plan(repo, tmp_path / "cache", [], "go1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Mirror("~/our mirror, 100% ours", key).has(entries) == ["data", "program"]


def test_only_what_a_checkout_wants_and_the_mirror_has_is_fetched(
    repo: Path, key: str, address: str, tmp_path: Path
) -> None:
    (repo / "bundle" / "data" / "build.sh").write_text("echo newer >$OUT/big\n")
    entries = plan(repo, tmp_path / "cache", [], "go1")
    mirror = Mirror(address, key)
    assert mirror.has(entries) == ["program"]
    with pytest.raises(MirrorUnavailable, match="no longer has data") as raised:
        mirror.fetch(tmp_path / "cache", entries[0])
    assert raised.value.answers


def test_publishing_again_adds_what_is_new_and_mends_what_is_damaged(repo: Path, key: str, tmp_path: Path) -> None:
    private = signing_key(tmp_path / "config" / "bundle.key")
    assert public_line(private) == key
    folder, built = tmp_path / "mirror", tmp_path / "built"
    entries = plan(repo, built, [], "go1")
    assert [publish(folder, entry, private) for entry in entries] == [False, False]
    archive = find(tmp_path, "program", ".tar.gz")
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    find(tmp_path, "data", ".jws").write_text("half")
    assert [publish(folder, entry, private) for entry in entries] == [True, True]
    other = signing_key(tmp_path / "other.key")
    assert publish(folder, entries[0], other), "what another key signed is not taken over"
    assert Mirror(str(folder), public_line(other)).has([entries[0]]) == ["data"]

    (repo / "bundle" / "data" / "build.sh").write_text("echo new >$OUT/big\n")
    newer = plan(repo, built, [], "go1")
    build(repo, built, newer, "data", [])
    assert publish(folder, plan(repo, built, [], "go1")[0], private)
    assert len(list((folder / "data").glob("*.jws"))) == 2, "other checkouts still have theirs"
    assert not list(folder.glob("*/*.part")) + list(folder.glob("*/.*.part"))


def test_a_component_that_is_damaged_here_is_not_published(repo: Path, key: str, tmp_path: Path) -> None:
    (entry,) = plan(repo, tmp_path / "built", ["program"], "go1")
    (entry.path / "bin" / "run").write_text("#!/bin/sh\necho hullo\n")
    with pytest.raises(BundleError, match="differs from its manifest"):
        publish(tmp_path / "empty", entry, signing_key(tmp_path / "config" / "bundle.key"))
    assert not [path for path in (tmp_path / "empty" / "program").iterdir() if path.name != ".lock"]


def test_an_archive_that_was_not_signed_is_refused(repo: Path, key: str, address: str, tmp_path: Path) -> None:
    archive = find(tmp_path, "program", ".tar.gz")
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    (entry,) = plan(repo, tmp_path / "cache", ["program"], "go1")
    with pytest.raises(BundleError, match=r"is not what was signed.*-e bundle_mirror=") as raised:
        Mirror(address, key).fetch(tmp_path / "cache", entry)
    assert not isinstance(raised.value, MirrorUnavailable)
    assert nothing_taken(repo, tmp_path / "cache")


def claim_other_sum(statement: Path) -> None:
    head, payload, signature = statement.read_text().strip().split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=="))
    said["sha256"] = "0" * 64
    payload = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    statement.write_text(f"{head}.{payload}.{signature}")


def no_signature(statement: Path) -> None:
    payload = statement.read_text().split(".")[1]
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    statement.write_text(f"{head}.{payload}.")


def of_another_component(statement: Path) -> None:
    (other,) = (statement.parent.parent / "data").glob("*.jws")
    statement.write_bytes(other.read_bytes())


def a_page(statement: Path) -> None:
    statement.write_text("<html>Please log in</html>")


def nothing(statement: Path) -> None:
    statement.write_text("")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (claim_other_sum, "not by bundle_mirror_key"),
        (no_signature, "no valid signature"),
        (of_another_component, "statement of data"),
        (a_page, "no valid signature"),
        (nothing, "no valid signature"),
    ],
)
def test_a_forged_statement_stops_all(
    repo: Path, key: str, address: str, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    change(find(tmp_path, "program", ".jws"))
    with pytest.raises(BundleError, match=f"{words}.*Nothing was taken from the mirror.*-e bundle_mirror=") as raised:
        Mirror(address, key).has(plan(repo, tmp_path / "cache", [], "go1"))
    assert not isinstance(raised.value, MirrorUnavailable)


def test_the_signature_of_another_key_is_refused(repo: Path, key: str, address: str, tmp_path: Path) -> None:
    other = public_line(signing_key(tmp_path / "other.key"))
    with pytest.raises(BundleError, match="not by bundle_mirror_key"):
        Mirror(address, other).has(plan(repo, tmp_path / "cache", [], "go1"))


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet="abcXYZ019-_.=", max_size=300).map(str.encode))
def test_no_text_without_the_signature_is_trusted(text: bytes) -> None:
    entry = Entry("data", "0" * 20, Path("/nowhere"), False)
    key = public_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop")
    with pytest.raises(ValueError):
        bundle_mirror._verified(text, key, entry)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_goes_on_in_another_run(
    repo: Path, key: str, server: type[Server], address: str, tmp_path: Path, ranges: bool
) -> None:
    (entry,) = plan(repo, tmp_path / "cache", ["data"], "go1")
    size = find(tmp_path, "data", ".gz").stat().st_size
    server.ranges, server.cut_after = ranges, size // 10
    with pytest.raises(MirrorUnavailable, match=f"ends after .* of {size} bytes") as raised:
        Mirror(address, key).fetch(tmp_path / "cache", entry)
    assert not raised.value.answers
    assert nothing_taken(repo, tmp_path / "cache")
    server.cut_after = None
    server.sent.clear()
    Mirror(address, key).fetch(tmp_path / "cache", entry)
    assert plan(repo, tmp_path / "cache", ["data"], "go1")[0].present
    ((_, sent),) = [file for file in server.sent if file[0].endswith(".gz")]
    assert (sent < size) is ranges


def test_a_cut_connection_is_made_again(
    repo: Path, key: str, server: type[Server], address: str, tmp_path: Path
) -> None:
    server.cut_after = find(tmp_path, "data", ".gz").stat().st_size // 3
    fetch(Mirror(address, key), repo, tmp_path / "cache")
    assert all(entry.present for entry in plan(repo, tmp_path / "cache", [], "go1"))


def test_the_rest_of_another_download_does_no_harm(repo: Path, key: str, address: str, tmp_path: Path) -> None:
    archive = find(tmp_path, "data", ".gz")
    for size in (1000, archive.stat().st_size, archive.stat().st_size + 1):
        (entry,) = plan(repo, tmp_path / f"cache-{size}", ["data"], "go1")
        part = tmp_path / f"cache-{size}" / "downloads" / "data" / archive.name
        part.parent.mkdir(parents=True)
        (part.parent / "of-an-older-pin.tar.gz").write_text("old")
        part.write_bytes(b"x" * size)
        Mirror(address, key).fetch(tmp_path / f"cache-{size}", entry)
        assert plan(repo, tmp_path / f"cache-{size}", ["data"], "go1")[0].present
        assert not part.parent.exists()


def test_a_listed_archive_that_is_missing_is_named(repo: Path, key: str, address: str, tmp_path: Path) -> None:
    archive = find(tmp_path, "program", ".gz")
    archive.unlink()
    for where in (address, str(tmp_path / "mirror")):
        (entry,) = plan(repo, tmp_path / "cache", ["program"], "go1")
        with pytest.raises(MirrorUnavailable, match=f"has no program/{archive.name}") as raised:
            Mirror(where, key).fetch(tmp_path / "cache", entry)
        assert raised.value.answers


def test_a_mirror_that_does_not_answer_is_told_from_one_that_lacks(
    repo: Path, key: str, server: type[Server], address: str, tmp_path: Path
) -> None:
    entries = plan(repo, tmp_path / "cache", [], "go1")
    assert Mirror(f"{address}/elsewhere", key).has(entries) == []
    for where in ("http://127.0.0.1:9/x", "http://user:secret@127.0.0.1:9/x", str(tmp_path / "none")):
        with pytest.raises(MirrorUnavailable) as raised:
            Mirror(where, key).has(entries)
        assert not raised.value.answers
        assert "secret" not in str(raised.value)


def test_a_full_disk_is_not_taken_for_a_mirror_that_does_not_answer(
    repo: Path, key: str, address: str, tmp_path: Path
) -> None:
    (entry,) = plan(repo, tmp_path / "cache", ["data"], "go1")
    part = tmp_path / "cache" / "downloads" / "data" / find(tmp_path, "data", ".gz").name
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        Mirror(address, key).fetch(tmp_path / "cache", entry)
    assert not isinstance(raised.value, BundleError)


def test_settings_that_can_not_be_meant_are_named(tmp_path: Path) -> None:
    good = public_line(signing_key(tmp_path / "bundle.key"))
    with pytest.raises(BundleError, match="needs bundle_mirror_key"):
        Mirror("https://mirror.example", " ")
    for bad in ("AAAA", "ssh-rsa AAAA", good.replace("ed25519", "ed448"), str(tmp_path / "bundle.key")):
        with pytest.raises(BundleError, match="must be the line 'ssh-ed25519"):
            Mirror("https://mirror.example", bad)
    with pytest.raises(BundleError, match="must be a path or begin with https"):
        Mirror("ftp://mirror.example", good)
    Mirror("https://mirror.example", f"{good} builder@example\n")


def test_the_signing_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "config" / "koren" / "bundle.key"
    assert public_line(signing_key(path)) == public_line(signing_key(path))
    assert path.stat().st_mode & 0o777 == 0o600
    line = subprocess.check_output(["ssh-keygen", "-y", "-f", path], text=True)
    assert line.split()[:2] == public_line(signing_key(path)).split()
    path.chmod(0o640)
    with pytest.raises(BundleError, match=f"chmod 600 {path}"):
        signing_key(path)


@pytest.mark.parametrize("kind", [["-t", "ecdsa", "-N", ""], ["-t", "ed25519", "-N", "secret"]])
def test_a_key_that_can_not_sign_is_named(tmp_path: Path, kind: list[str]) -> None:
    path = tmp_path / "bundle.key"
    subprocess.run(["ssh-keygen", "-q", *kind, "-f", path], check=True)
    with pytest.raises(BundleError, match=f"bundle_signing_key {path}"):
        signing_key(path)
