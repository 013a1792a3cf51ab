# SPDX-License-Identifier: Apache-2.0
"""Counts the accidents of a region, and reports them when a timer calls it."""

import json

from koren_runtime import state

DETECTED = "kr.koren.traffic.accident.detected"
CALL = "kr.koren.faas.invocation"
KEY = "counts"


def handler(event, context):
    """Count an accident; or, for a call, give the counts since the last one and begin anew."""
    if event["event-type"] not in (DETECTED, CALL):
        return None
    while True:
        entry = state.get(KEY)
        counts = json.loads(entry.value) if entry else {}
        if event["event-type"] == CALL:
            after, answer = {}, {"accidents": sum(counts.values()), "by severity": counts}
        else:
            severity = event["data"]["severity"]
            after, answer = {**counts, severity: counts.get(severity, 0) + 1}, None
        version = entry.version if entry else state.ABSENT
        try:
            state.put(KEY, json.dumps(after).encode(), version=version)
        except state.Conflict:
            continue
        return answer
