# SPDX-License-Identifier: Apache-2.0
"""A build gets the Debian packages that its lock pins, and no others."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.koren.faas.plugins.module_utils.bundle import BundleError, build, plan
from ansible_collections.koren.faas.plugins.module_utils.bundle_lock import gone, in_words, provide, read_lock, renew

REPO = Path(__file__).parents[2]


class Mirror:
    """A mirror of Debian packages that this machine's apt reads."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "mirror"
        self.folder.mkdir()
        self._packages: dict[str, str] = {}
        (folder / "sources.list").write_text(f"deb [trusted=yes] file:{self.folder} ./\n")
        (folder / "apt.conf").write_text(
            f'Dir::Etc::SourceList "{folder}/sources.list";\nDir::Etc::SourceParts "-";\n'
            f'Dir::Etc::Preferences "/nowhere";\nDir::Etc::PreferencesParts "/nowhere";\n'
        )
        monkeypatch.setenv("APT_CONFIG", str(folder / "apt.conf"))

    def put(self, name: str, version: str, depends: str = "", content: str = "", *more: str) -> None:
        """Have the mirror offer a package in this version alone."""
        for old in self.folder.glob(f"{name}_*.deb"):
            old.unlink()
        tree = self.folder.parent / "tree"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        fields = [f"Package: {name}", f"Version: {version}", "Architecture: all", "Maintainer: tests <t@example.test>"]
        fields += [f"Depends: {depends}"] * bool(depends) + [*more, f"Description: {content or name}"]
        (tree / "DEBIAN/control").write_text("\n".join(fields) + "\n")
        file = self.folder / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, file], check=True, capture_output=True)
        where = [f"Filename: ./{file.name}", f"Size: {file.stat().st_size}", f"SHA256: {_sha256(file)}"]
        self._packages[name] = "\n".join(fields + where)
        (self.folder / "Packages").write_text("\n\n".join(self._packages.values()) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """One with a host's first packages, a clock and what that needs."""
    made = Mirror(tmp_path, monkeypatch)
    made.put("base", "1", "", "", "Essential: yes")
    made.put("apt", "1", "libc")
    made.put("libc", "1")
    made.put("clock", "1:4.0-1", "libc, libclock (>= 2)")
    made.put("libclock", "2.1+deb12u1")
    return made


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A checkout whose hosts have a clock."""
    for name, listing in (("host-image", "image"), ("apt", "region")):
        (tmp_path / "repo/bundle" / name).mkdir(parents=True)
        (tmp_path / "repo/bundle" / name / f"{listing}.txt").write_text("clock\n" if name == "apt" else "base\n")
        (tmp_path / "repo/bundle" / name / "build.sh").write_text('cp "$DEBS"/*.deb "$OUT"\n')
    (tmp_path / "repo/bundle/watch").mkdir()
    (tmp_path / "repo/bundle/watch/packages.txt").write_text("clock\n")
    (tmp_path / "repo/bundle/apt/edge.txt").write_text("@region\n")
    return tmp_path / "repo"


def built(repo: Path, cache: Path) -> dict[str, str]:
    """The SHA-256 of each file of the component apt, which is built for that."""
    entries = plan(repo, cache, ["apt"], "go1")
    path = build(repo, cache, entries, "apt", [])
    return {file.name: _sha256(file) for file in path.glob("*.deb")}


def test_a_build_has_just_what_is_pinned_and_needs_the_mirror_once(mirror: Mirror, repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert {(each.name, each.new) for each in renew(repo, cache)} >= {("libc", "1"), ("clock", "1:4.0-1")}
    pinned = {each.name: each for each in read_lock(repo / "bundle/apt/packages.lock")}
    # What the image has is not brought again.
    sets = {name: each.sets for name, each in pinned.items()}
    assert sets == dict.fromkeys(["clock", "libclock"], ("edge", "region"))
    assert {each.name for each in read_lock(repo / "bundle/host-image/packages.lock")} == {"base", "apt", "libc"}
    # What is no system of its own has what its packages need, and nothing else.
    assert {each.name for each in read_lock(repo / "bundle/watch/packages.lock")} == {"clock", "libclock", "libc"}
    files = built(repo, cache)
    assert files == {Path(each.path).name: each.sha256 for each in pinned.values()}

    text = (repo / "bundle/apt/packages.lock").read_text()
    assert renew(repo, cache) == [] and (repo / "bundle/apt/packages.lock").read_text() == text
    for file in mirror.folder.iterdir():
        file.unlink()
    provide(repo / "bundle/apt/packages.lock", cache, tmp_path / "debs")
    assert {file.name: _sha256(file) for file in (tmp_path / "debs").iterdir()} == files


def test_a_component_may_be_of_another_release(mirror: Mirror, repo: Path, tmp_path: Path) -> None:
    own = platform.freedesktop_os_release()["VERSION_CODENAME"]
    # The release's name is a part of the mirror's path.
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/{own} ./\n")
    mirror.folder.rename(tmp_path / own)
    shutil.copytree(tmp_path / own, tmp_path / "newer")
    mirror.folder = tmp_path / "newer"
    mirror.put("clock", "2:5.0", "libc")
    (repo / "bundle/watch/suite").write_text("newer\n")
    renew(repo, tmp_path / "cache")
    pinned = {
        name: [
            package.version
            for package in read_lock(repo / "bundle" / name / "packages.lock")
            if package.name == "clock"
        ]
        for name in ("apt", "watch")
    }
    assert pinned == {"apt": ["1:4.0-1"], "watch": ["2:5.0"]}
    assert gone(repo, tmp_path / "cache") == []
    provide(repo / "bundle/watch/packages.lock", tmp_path / "cache", tmp_path / "debs")
    assert "clock_2:5.0_all.deb" in {path.name.replace("%3a", ":") for path in (tmp_path / "debs").iterdir()}


def test_a_version_that_has_gone_is_named_with_its_remedy(mirror: Mirror, repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    renew(repo, cache)
    assert gone(repo, cache) == []
    mirror.put("libclock", "2.1+deb12u2")
    with pytest.raises(BundleError, match=r"libclock 2\.1\+deb12u1 \(it has 2\.1\+deb12u2\).*make lock"):
        built(repo, cache)
    assert [each.name for each in gone(repo, cache)] == ["libclock"]
    changes = renew(repo, cache)
    assert in_words(changes).splitlines()[1:] == [
        f"{component:<9}  libclock  2.1+deb12u1  2.1+deb12u2" for component in ("apt", "watch")
    ]
    assert "libclock_2.1+deb12u2_all.deb" in built(repo, cache)
    assert gone(repo, cache) == []


def test_another_file_under_a_pinned_version_is_refused(mirror: Mirror, repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    renew(repo, cache)
    mirror.put("libclock", "2.1+deb12u1", "", "something else")
    with pytest.raises(BundleError, match=r"libclock 2\.1\+deb12u1 is not the package that.*SHA-256.*make lock"):
        built(repo, cache)
    assert not list(cache.glob("debs/*.deb")) and not plan(repo, cache, ["apt"], "go1")[0].present


def test_a_damaged_file_in_the_cache_is_fetched_again(mirror: Mirror, repo: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    renew(repo, cache)
    files = built(repo, cache)
    for file in cache.glob("debs/*.deb"):
        file.write_bytes(b"damaged")
    (repo / "bundle/apt/build.sh").write_text('cp "$DEBS"/*.deb "$OUT" # again\n')
    assert built(repo, cache) == files


def test_a_mirror_that_does_not_answer_leaves_the_lock(mirror: Mirror, repo: Path, tmp_path: Path) -> None:
    renew(repo, tmp_path / "cache")
    text = (repo / "bundle/apt/packages.lock").read_text()
    (tmp_path / "sources.list").write_text("deb [trusted=yes] file:/nowhere ./\n")
    with pytest.raises(BundleError, match="apt-get update failed"):
        renew(repo, tmp_path / "cache")
    assert (repo / "bundle/apt/packages.lock").read_text() == text


def test_a_list_that_was_changed_since_and_a_broken_line_are_told(mirror: Mirror, repo: Path, tmp_path: Path) -> None:
    renew(repo, tmp_path / "cache")
    (repo / "bundle/apt/region.txt").write_text("clock\nradio\n")
    with pytest.raises(BundleError, match=r"bundle/apt/edge.txt lists radio.*make lock"):
        built(repo, tmp_path / "cache")
    with pytest.raises(BundleError, match="radio"):
        renew(repo, tmp_path / "cache")
    with (repo / "bundle/apt/packages.lock").open("a") as lock:
        lock.write("clock 1:4.0-1\n")
    with pytest.raises(BundleError, match=r"packages\.lock, line 4 .*make lock"):
        built(repo, tmp_path / "cache")
    (repo / "bundle/apt/region.txt").write_text("clock\n")
    renew(repo, tmp_path / "cache")
    assert built(repo, tmp_path / "cache")


@pytest.mark.parametrize("component", ["apt", "host-image", "python-base"])
def test_each_listed_package_of_the_project_is_pinned(component: str) -> None:
    folder = REPO / "bundle" / component
    pinned = read_lock(folder / "packages.lock")
    for listing in folder.glob("*.txt"):
        names = {name for name in listing.read_text().split() if not name.startswith("@")}
        assert names <= {each.name for each in pinned if listing.stem in each.sets}, f"{listing}: make lock"
