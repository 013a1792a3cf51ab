# SPDX-License-Identifier: Apache-2.0
"""How long components take to build, and an estimate for the rest of a build."""

from __future__ import annotations

from pathlib import Path

# Approximate seconds on two idle cores with nothing downloaded. After a build on this machine, only the ratios matter.
USUAL_S = {
    "apt": 45,
    "clips": 50,
    "cni-plugins": 9,
    "console": 18,
    "containerd": 44,
    "coredns": 60,
    "detector": 13,
    "etcd": 23,
    "flannel": 45,
    "gateway": 32,
    "host-image": 55,
    "images": 40,
    "keda": 224,
    "kubernetes": 248,
    "manifests": 3,
    "metrics-server": 30,
    "models": 5,
    "prometheus": 45,
    "python-base": 12,
    "python3.13-base": 12,
    "runtime": 10,
    "runtime-nodejs22": 20,
    "runtime-python3.13": 10,
    "sns": 25,
    "victorialogs": 20,
    "vmagent": 20,
}
OTHER_S = 20


def record(cache: Path, name: str, seconds: float) -> None:
    """Record how long a component took to build on this machine."""
    path = cache / "times" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{seconds:.1f}\n", encoding="utf-8")


def measured(cache: Path) -> dict[str, float]:
    """Seconds that components took when they were last built on this machine."""
    found = {}
    for path in cache.glob("times/*"):
        try:
            found[path.name] = float(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


def left_s(missing: list[str], here: dict[str, float]) -> float:
    """Seconds until the missing components are built, by their last build here or by the pace of other builds here."""
    known = here.keys() & USUAL_S.keys()
    usual = sum(USUAL_S[name] for name in known)
    pace = sum(here[name] for name in known) / usual if usual else 1.0
    return sum(here.get(name, pace * USUAL_S.get(name, OTHER_S)) for name in missing)


def in_words(missing: list[str], here: dict[str, float]) -> str:
    """The estimated time that is left, as text for people."""
    minutes = max(1, round(left_s(missing, here) / 60))
    return f"about {minutes} min left" if here else f"{minutes} min on two idle cores"
