# SPDX-License-Identifier: Apache-2.0
"""All that the console asks of Prometheus. What is collected must have every series that is named here."""

from __future__ import annotations

from dataclasses import dataclass

_PHASE = "koren_gateway_phase_seconds_bucket"
_PODS = "koren_function_pods"
_USED = "koren_function_pod_seconds_total"
# One pod that is always there, and what more the load asked for.
_ALWAYS_ON = f"clamp_min(sum by (region, function) ({_PODS}), 1)"
# Each replica of a gateway tells the same.
_QUEUED = (
    "max by (region, function)"
    " (koren_gateway_runnable_subjects + koren_gateway_waiting_subjects + koren_gateway_in_flight)"
)
OBJECTIVE_S = 2.0
"""Within which an event is to be handled."""

REGION_FIGURES: dict[str, str] = {
    "queued": f"sum by (region) ({_QUEUED})",
    "dead_letters": "max by (region) (koren_gateway_dead_letters)",
}
"""One value a region."""

HOSTS: dict[str, str] = {
    "up": 'max by (region, instance) (up{job="node"})',
    "cpu": '1 - avg by (region, instance) (rate(node_cpu_seconds_total{mode="idle"}[1m]))',
    "memory": "1 - max by (region, instance) (node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)",
    "disk": '1 - min by (region, instance) (node_filesystem_avail_bytes{fstype!~"tmpfs|ramfs"}'
    ' / node_filesystem_size_bytes{fstype!~"tmpfs|ramfs"})',
}
"""One value a host."""

PARTS: dict[str, str] = {
    "broker": 'min by (region) (up{job="mosquitto"})',
    "bridge": "min by (region, sensor) (mosquitto_bridge_up)",
    "redis": "min by (region) (koren_gateway_redis_connected)",
    "registry": 'min by (region) (up{job="registry"})',
    "detector": 'min by (region, instance) (up{job="detector"})',
}
"""1 or 0 a part; the label beside the region names it where there are several."""

REDIS_SHARE = "max by (region) (koren_gateway_redis_used_bytes / (koren_gateway_redis_limit_bytes > 0))"
CERTIFICATES = "min by (region, instance, name) (koren_certificate_end_timestamp_seconds)"
LINKS: dict[str, str] = {
    "bytes": "sum by (region, link, class) (rate(koren_nfv_class_bytes_total[1m]))",
    "dropped": "sum by (region, link, class) (rate(koren_nfv_class_dropped_packets_total[1m]))",
}
CAMERAS: dict[str, str] = {
    "connected": "max by (camera) (koren_detector_stream_connected)",
    "moving": "sum by (camera) (rate(koren_detector_frames_total[1m]) - rate(koren_detector_still_frames_total[1m]))",
}
"""One value a camera."""

FUNCTIONS: dict[str, str] = {
    "queued": _QUEUED,
    "per_minute": 'sum by (region, function) (rate(koren_gateway_invocations_total{outcome="succeeded"}[5m])) * 60',
    "errors_per_minute": 'sum by (region, function) (rate(koren_gateway_invocations_total{outcome!="succeeded"}[5m]))'
    " * 60",
}
"""One value a function in a region."""

PHASES: dict[str, str] = {
    quantile: f"histogram_quantile({share}, sum by (region, function, phase, le) (rate({_PHASE}[1h])))"
    for quantile, share in (("p50", 0.5), ("p95", 0.95))
}
"""Seconds from the event's time, by function and phase, over an hour."""

SUMMARY: dict[str, str] = {
    "events_last_hour": 'sum(increase(koren_gateway_events_total{outcome!~"duplicate|dismissed"}[1h]))',
    "p95_from_zero": "histogram_quantile(0.95, sum by (le)"
    f' (rate({_PHASE}{{phase="handler_entered",start="zero"}}[1h])))',
    # Dropped for want of room. What a broker drops, its publisher sends again.
    "lost": 'sum(max by (region, what) (delta(koren_gateway_dropped{what!~"state-full|dead-letters-by-age"}[1h])))'
    # A gateway that has dropped nothing yet does not tell how much that is.
    " or 0 * count(koren_gateway_intake_connected)",
    "retried": 'sum(increase(koren_gateway_invocations_total{outcome=~"failed|lost"}[1h]))',
    "dead": "sum(max by (region) (koren_gateway_dead_letters))",
    "saved": f"1 - sum(increase({_USED}[7d])) / (sum(sum_over_time(({_ALWAYS_ON})[7d:1m])) * 60)",
}

SAVINGS = {
    "used": f"sum by (region, function) (increase({_USED}[%s]))",
    "always_on": f"sum_over_time(({_ALWAYS_ON})[%s:1m]) * 60",
}
"""Pod-seconds a function over a span, `%s`."""


@dataclass(frozen=True)
class Chart:
    """A figure over time; `%s` in the query stands for the selector of region and function."""

    unit: str
    query: str
    objective: float | None = None


CHARTS: dict[str, dict[str, Chart]] = {
    "events": {
        "succeeded": Chart("1/min", 'sum(rate(koren_gateway_invocations_total{outcome="succeeded",%s}[2m])) * 60'),
        "failed": Chart("1/min", 'sum(rate(koren_gateway_invocations_total{outcome!="succeeded",%s}[2m])) * 60'),
    },
    "p95": {
        "p95": Chart(
            "s",
            f'histogram_quantile(0.95, sum by (le) (rate({_PHASE}{{phase="handler_entered",%s}}[5m])))',
            OBJECTIVE_S,
        ),
        "p50": Chart("s", f'histogram_quantile(0.5, sum by (le) (rate({_PHASE}{{phase="handler_entered",%s}}[5m])))'),
    },
    "pods": {"pods": Chart("pods", f"sum({_PODS}{{%s}})")},
    "queued": {"queued": Chart("events", "sum(max by (region, function) (koren_gateway_runnable_subjects{%s}))")},
}
"""By the name that the page asks for: its lines."""


def selector(region: str, function: str) -> str:
    """What selects a region's or function's series; empty selects all."""
    wanted = [f'{name}="{_quoted(value)}"' for name, value in (("region", region), ("function", function)) if value]
    return ",".join(wanted)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
