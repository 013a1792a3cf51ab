"""What the idle site takes of the machine: by podman's count of its hosts, and by component. One line of JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import defaultdict
from typing import Any

import pytest
from test_monitoring import ask

SECONDS = 60
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
#: Programs whose name does not say what they are.
COMPONENTS = {
    "adapter": "keda",
    "operator": "keda",
    "webhooks": "keda",
    "containerd-shim": "containerd",
    "flanneld": "flannel",
    "pause": "containerd",
    "catatonit": "containerd",
    "prometheus-node": "node-exporter",
    "koren-cluster-v": "cluster-view",
    "prometheus-mqtt": "mqtt-exporter",
    "prometheus-aler": "alertmanager",
    "systemd-journal": "journal",
}
#: What a region has only to be watched.
MONITORING = {
    "vmagent", "node-exporter", "cluster-view", "mqtt-exporter", "vlagent", "syslog-ng", "victoria-logs", "prometheus",
    "alertmanager",
}  # fmt: skip


def _hosts(site: str) -> dict[str, dict[str, float]]:
    """Seconds of CPU and bytes of memory, page cache included, that each host has taken."""
    names = subprocess.run(
        ["podman", "ps", "--filter", f"label=koren.site={site}", "--format", "{{.Names}}"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    if not names:
        pytest.skip("the site's hosts are not podman's")
    stats = ["podman", "stats", "--no-stream", "--format", "json", *names]
    found = json.loads(subprocess.run(stats, check=True, capture_output=True, text=True).stdout)
    return {host["name"].removeprefix(f"koren-{site}-"): _numbers(host) for host in found}


def _numbers(host: dict[str, str]) -> dict[str, float]:
    seconds = 0.0
    for value, unit in re.findall(r"([\d.]+)(ms|µs|h|m|s)", host["cpu_time"]):
        seconds += float(value) * {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "µs": 1e-6}[unit]
    value, unit = re.match(r"([\d.]+)(\w+)", host["mem_usage"]).groups()  # type: ignore[union-attr]
    return {"cpu_s": seconds, "bytes": float(value) * UNITS[unit]}


def _components(site: str, host: str) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of CPU and resident MB of a host's processes, by component."""
    # To a hundredth of a second, which ps does not show. A process may end while it is read.
    shown = subprocess.run(
        ["podman", "exec", f"koren-{site}-{host}", "sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null || true"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    seconds: defaultdict[str, float] = defaultdict(float)
    resident: defaultdict[str, float] = defaultdict(float)
    for line in shown.splitlines():
        name, _, rest = line.partition("(")[2].rpartition(")")
        numbers = rest.split()
        name = COMPONENTS.get(name, name)
        seconds[name] += (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")
        resident[name] += int(numbers[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return seconds, resident


def _series(site: dict[str, Any]) -> dict[str, int]:
    """Series of each region that the centre has now."""
    counted = ask(site, 'count by (region) ({region!=""})')
    return {region: round(value) for (region, _), value in sorted(counted.items())}


def test_bench_idle(site: dict[str, Any], capsys: Any) -> None:
    before = _hosts(site["site"])
    nodes = {node: region for region, one in site["regions"].items() for node in one["nodes"]}
    began = {node: _components(site["site"], node)[0] for node in nodes}
    time.sleep(SECONDS)
    after = _hosts(site["site"])
    regions: dict[str, dict[str, dict[str, float]]] = {}
    for node, region in nodes.items():
        seconds, resident = _components(site["site"], node)
        for name, megabytes in resident.items():
            shown = regions.setdefault(region, {}).setdefault(name, {"cores": 0.0, "resident_mb": 0})
            shown["cores"] = round(shown["cores"] + (seconds[name] - began[node][name]) / SECONDS, 3)
            shown["resident_mb"] = round(shown["resident_mb"] + megabytes)
    watching = {
        region: {
            key: round(sum(cost[key] for name, cost in found.items() if name in MONITORING), 3)
            for key in ("cores", "resident_mb")
        }
        for region, found in regions.items()
    }
    # What takes next to nothing only hides the rest.
    regions = {
        region: {name: cost for name, cost in sorted(found.items()) if cost["resident_mb"] >= 10}
        for region, found in regions.items()
    }
    cores = {name: (after[name]["cpu_s"] - before[name]["cpu_s"]) / SECONDS for name in sorted(after)}
    with capsys.disabled():
        print(
            "\n"
            + json.dumps(
                {
                    "bench": "idle site",
                    "cores": round(sum(cores.values()), 2),
                    "memory_mb": round(sum(host["bytes"] for host in after.values()) / 1e6),
                    "cores_by_host": {name: round(value, 3) for name, value in cores.items()},
                    "regions": regions,
                    "monitoring": watching,
                    "series": _series(site),
                }
            )
        )
