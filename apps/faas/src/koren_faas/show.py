# SPDX-License-Identifier: Apache-2.0
"""The tables and documents that the command line prints."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import yaml

from koren_faas import manifests, terminal
from koren_faas.change import Difference
from koren_faas.dead_letters import DeadLetter
from koren_faas.deployment import REFUSED, Deployed, Refused
from koren_faas.durations import duration_of
from koren_faas.endings import Ending
from koren_faas.held import HeldEvent
from koren_faas.history import HandledEvent
from koren_faas.http_triggers import Declared as HttpTrigger
from koren_faas.mqtt_sources import Declared
from koren_faas.triggers import ACTIVE, HTTP, MQTT, Trigger
from koren_faas.usage import Usage

_HEAD = ("NAME", "NAMESPACE", "HANDLER", "RUNTIME", "DEPENDENCIES", "STATUS", "REGION")
_HEAD_WIDE = ("TOPIC", "MEMORY", "ENV", "IMAGE")
METRIC = "backlog"
"""What functions scale by: incidents with work."""
_REASON_LENGTH = 60
_REQUIREMENTS_LENGTH = 40


class Plain(Protocol):
    """What can be told as plain data."""

    def as_dict(self) -> dict[str, Any]:
        """All of it."""


def document(things: Sequence[Plain], form: str) -> str:
    """Things as one document: `json` or `yaml`."""
    return plain([one.as_dict() for one in things], form)


def plain(content: Any, form: str) -> str:
    """Plain data as a document: `json` or `yaml`."""
    if form == "json":
        return json.dumps(content, indent=2, ensure_ascii=False)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()


def listing(functions: Sequence[Deployed], refused: Sequence[Refused] = (), *, wide: bool) -> str:
    """Functions as a table, a line each, then what is refused."""
    rows: list[tuple[str, ...]] = [_HEAD + (_HEAD_WIDE if wide else ())]
    for one in functions:
        function = one.function
        row: tuple[str, ...] = (
            function.name,
            manifests.NAMESPACE,
            function.handler,
            function.runtime,
            ", ".join(one.requirements) if wide else _brief(one.requirements),
            one.status,
            one.region,
        )
        if wide:
            env = ", ".join(f"{key}={value}" for key, value in sorted(function.env.items()))
            row += (function.topic or "", function.memory, env, one.image)
        rows.append(row)
    for other in refused:
        row = (other.name, manifests.NAMESPACE, "", "", "", REFUSED, other.region)
        rows.append(row + ("",) * (len(rows[0]) - len(row)))
    return table(rows, wide=wide)


def refusal(one: Refused) -> str:
    """A Deployment that is no function, a line each."""
    return columns(
        [
            ("Name:", one.name),
            ("Namespace:", manifests.NAMESPACE),
            ("Region:", one.region),
            ("Status:", REFUSED),
            ("Problem:", one.problem),
        ]
    )


def description(one: Deployed, triggers: Sequence[Trigger] = (), endings: Sequence[Ending] = ()) -> str:
    """All of one deployed function, a line each, with what starts it, and why its pods ended last."""
    function = one.function
    incident = ""
    if function.opens:
        until = f"{function.closes} or " if function.closes else ""
        incident = f"{function.opens} until {until}{function.incident_limit_s} s"
    limits = (
        f"at most {function.max_in_flight} in hand" if function.max_in_flight else "",
        f"at most {function.rate}" if function.rate else "",
    )
    side = f", {function.concurrency} events side by side" if function.concurrency > 1 else ""
    if function.batch_size > 1:
        window = f" within {duration_of(function.batch_window_s)}" if function.batch_window_s else ""
        side += f", batches of up to {function.batch_size} events{window}"
    load = "1 incident" if function.target == 1 else f"{function.target} incidents"
    rows = [
        ("Name:", function.name),
        ("Namespace:", manifests.NAMESPACE),
        ("Region:", one.region),
        ("Handler:", function.handler),
        ("Runtime:", function.runtime),
        *(("Trigger:", _trigger(trigger)) for trigger in triggers),
        ("Incident:", incident),
        ("Timeout:", f"{function.timeout_s} s, at most {function.max_attempts} attempts"),
        ("Scale:", f"{function.min_scale} to {function.max_scale} pods, {load} each{side}"),
        ("Limits:", ", ".join(filter(None, limits))),
        ("Priority:", function.priority),
        *((("History:", function.history),) if function.history else ()),
        ("Envvar:", json.dumps(dict(function.env), ensure_ascii=False)),
        ("Egress:", ", ".join(function.egress)),
        ("Secrets:", ", ".join(function.secrets)),
        ("Memory:", function.memory),
        ("CPU:", function.cpu),
        ("Tmp:", function.tmp_size),
        ("Dependencies:", ", ".join(one.requirements)),
        ("Packages:", ", ".join(function.packages)),
        ("Image:", one.image),
        ("Status:", one.status),
        *((("Problem:", one.problem),) if one.problem else ()),
        *(("Ended:", f"{ending.time}  {ending.pod}: {ending.why}") for ending in endings),
    ]
    return columns(rows)


def _trigger(one: Trigger) -> str:
    """A trigger in a line."""
    its = one.data
    if one.kind == MQTT:
        delay = _delay(one)
        what = f"{one.topic}{f', after {delay}' if delay else ''}"
    elif one.kind == HTTP:
        what = f"{its.get('methods', '')} {its.get('host', '')}{its.get('path', '')}"
    else:
        what = f"{its.get('schedule', '')} {its.get('timezone', '')}"
    standing = "" if one.status == ACTIVE else f" ({one.status.lower()}{f': {one.problem}' if one.problem else ''})"
    return f"{one.kind} {one.name}: {what}{standing}"


def _delay(one: Trigger) -> str:
    return duration_of(int(one.data.get("delay-s") or 0))


def usage(used: Sequence[Usage], *, wide: bool = False) -> str:
    """What functions did, a line each."""
    rows: list[tuple[str, ...]] = [
        ("NAME", "NAMESPACE", "TOTAL_CALLS", "TOTAL_FAILURES")
        + ("TOTAL_DURATION_SECONDS", "AVG_DURATION_SECONDS", "REGION")
    ]
    for one in used:
        average = "" if one.average_s is None else f"{one.average_s:.3f}"
        counts = (str(one.calls), str(one.failures), f"{one.duration_s:.3f}", average)
        rows.append((one.name, one.namespace, *counts, one.region))
    return table(rows, wide=wide)


def triggers(found: Sequence[Trigger], *, wide: bool = False) -> str:
    """Triggers, a line each."""
    rows: list[tuple[str, ...]] = [
        ("NAME", "NAMESPACE", "TOPIC", "FUNCTION SELECTOR", "DELAY", "STATUS", "REGION")
    ]
    rows += [
        (one.name, manifests.NAMESPACE, one.topic, f"function={one.function}", _delay(one), one.status, one.region)
        for one in found
    ]
    return table(rows, wide=wide)


def cron_triggers(found: Sequence[Trigger], *, wide: bool = False) -> str:
    """Triggers of kind cron, a line each."""
    rows: list[tuple[str, ...]] = [
        ("NAME", "NAMESPACE", "SCHEDULE", "TIMEZONE", "FUNCTION", "STATUS", "LAST", "NEXT", "REGION")
    ]
    rows += [
        (
            one.name,
            manifests.NAMESPACE,
            one.data.get("schedule", ""),
            one.data.get("timezone", ""),
            one.function,
            one.status,
            one.last or "",
            one.next or "",
            one.region,
        )
        for one in found
    ]
    return table(rows, wide=wide)


def http_triggers(found: Sequence[HttpTrigger], *, wide: bool = False) -> str:
    """HTTP triggers, a line each."""
    rows: list[tuple[str, ...]] = [("NAME", "NAMESPACE", "FUNCTION", "METHODS", "URL", "ACCESS", "STATUS", "REGION")]
    for one in found:
        its = one.trigger
        described = ("", "", "", "")
        if its is not None:
            access = "token" if its.token_secret else "anonymous"
            described = (its.function, ",".join(its.methods), one.url or f"{its.host}{its.path}", access)
        rows.append((one.name, manifests.NAMESPACE, *described, one.status, one.region))
    return table(rows, wide=wide)


def sources(found: Sequence[Declared], *, wide: bool = False) -> str:
    """Sources, a line each."""
    rows: list[tuple[str, ...]] = [("NAME", "NAMESPACE", "TOPIC", "STATUS", "REGION")]
    for one in found:
        topic = one.source.topic if one.source else ""
        rows.append((one.name, manifests.NAMESPACE, topic, one.status, one.region))
    return table(rows, wide=wide)


def source(one: Declared) -> str:
    """All of one source, a line each."""
    its = one.source
    described = () if its is None else (
        ("Topic:", its.topic),
        ("Published at:", its.at),
        ("Publishers:", ", ".join(its.publishers)),
        ("Subject from:", its.subject_from),
        ("Id from:", its.id_from),
        ("Event source:", f"mqtt/{its.name}"),
        ("Trigger topic:", f"events/{one.region}/{its.name}/mqtt"),
    )
    return columns(
        [
            ("Name:", one.name),
            ("Namespace:", manifests.NAMESPACE),
            ("Region:", one.region),
            *described,
            ("Status:", one.status),
            *((("Problem:", one.problem),) if one.problem else ()),
        ]
    )


def autoscales(functions: Sequence[Deployed], *, wide: bool = False) -> str:
    """How functions scale, a line each."""
    rows: list[tuple[str, ...]] = [
        ("NAME", "NAMESPACE", "TARGET", "MIN", "MAX", "METRIC", "VALUE", "REGION")
    ]
    for one in functions:
        name, limits = one.function.name, (one.function.min_scale, one.function.max_scale)
        row = (name, manifests.NAMESPACE, name, *map(str, limits))
        rows.append((*row, METRIC, str(one.function.target), one.region))
    return table(rows, wide=wide)


def dead_letters(letters: Sequence[DeadLetter], *, wide: bool = False) -> str:
    """Dead letters, a line each."""
    rows: list[tuple[str, ...]] = [
        ("ID", "FUNCTION", "REASON", "ATTEMPTS", "TIME", "EVENT TYPE", "SUBJECT", "REGION")
    ]
    for one in letters:
        event = one.event or {}
        about = (event.get("type") or "", event.get("subject") or "")
        row = (one.id, one.function or "", _short(one.reason, wide), str(one.attempts), one.time)
        rows.append((*row, *about, one.region))
    return table(rows, wide=wide)


def dead_letter(letter: Mapping[str, Any]) -> str:
    """All of one dead letter, its message last."""
    rows = [
        ("ID:", letter["id"]),
        ("Region:", letter["region"]),
        ("Function:", letter["function"] or ""),
        ("Reason:", _short(letter["reason"])),
        ("Attempts:", str(letter["attempts"])),
        ("Time:", letter["time"]),
        *((("Bytes:", str(letter["bytes"])),) if letter.get("bytes") is not None else ()),
        *_about(letter["event"]),
    ]
    parts = [columns(rows)]
    if "\n" in letter["reason"].strip():
        parts.append(letter["reason"].strip())
    parts.append(_message(letter))
    return "\n\n".join(parts)


def handled_events(events: Sequence[HandledEvent], *, wide: bool = False) -> str:
    """Events that a function has handled, a line each."""
    head = ("TIME", "ID", "EVENT TYPE", "SUBJECT", "ATTEMPTS", "REGION")
    rows: list[tuple[str, ...]] = [head + (("SOURCE", "BYTES") if wide else ())]
    for one in events:
        row = (one.time, one.id, one.event["type"], one.event["subject"] or "", str(one.attempts), one.region)
        rows.append(row + ((one.event["source"], str(one.bytes)) if wide else ()))
    return table(rows, wide=wide)


def held_events(events: Sequence[HeldEvent], *, wide: bool = False) -> str:
    """Held events, a line each."""
    rows: list[tuple[str, ...]] = [
        ("ID", "STATE", "RECEIVED", "UNTIL", "BY", "EVENT TYPE", "SUBJECT", "REGION")
    ]
    for one in events:
        event = one.event or {}
        about = (event.get("type") or "", event.get("subject") or "")
        row = (one.id, one.state, one.received, one.until or "", one.by or "")
        rows.append((*row, *about, one.region))
    return table(rows, wide=wide)


def held_event(held: Mapping[str, Any]) -> str:
    """All of one held event, its message last."""
    rows = [
        ("ID:", held["id"]),
        ("Region:", held["region"]),
        ("State:", held["state"]),
        ("Received:", held["received"]),
        ("Until:", held["until"] or ""),
        ("By:", held["by"] or ""),
        ("Bytes:", str(held["bytes"])),
        *_about(held["event"]),
    ]
    return f"{columns(rows)}\n\n{_message(held)}"


def _about(event: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    keys = ("id", "source", "type", "subject")
    return [(f"Event {key}:", (event or {}).get(key) or "") for key in keys]


def _message(content: Mapping[str, Any]) -> str:
    return plain(content.get("message", content.get("message_base64")), "json")


def diff(changes: Iterable[Difference]) -> str:
    """What changed, as a unified diff."""
    parts: list[str] = []
    for change in changes:
        parts += difflib.unified_diff(
            change.before.splitlines(),
            change.after.splitlines(),
            f"{change.what} (before)",
            f"{change.what} (after)",
            lineterm="",
        )
    return "\n".join(parts)


def _short(reason: str, whole: bool = False) -> str:
    first = (reason.strip().splitlines() or [""])[0]
    if whole or len(first) <= _REASON_LENGTH:
        return first
    return f"{first[: _REASON_LENGTH - 1]}…"


def _brief(requirements: Sequence[str]) -> str:
    """Requirements as far as a table has room for them: the first ones by name, and how many more there are."""
    text = ", ".join(requirements)
    names = [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in requirements]
    shown = len(names)
    while len(text) > _REQUIREMENTS_LENGTH and shown > 1:
        shown -= 1
        text = f"{', '.join(names[:shown])} +{len(names) - shown}"
    return text


def printable(text: str, *, lines: bool = False) -> str:
    """A text of others as a terminal may have it, which what they write could steer.

    Args:
        lines: keep its lines and tabs; without, it is one line, which can't look like several.
    """
    kept = "\n\t" if lines else ""
    text = text if lines else " ".join(text.split())
    return "".join(c if c.isprintable() or c in kept else "\N{REPLACEMENT CHARACTER}" for c in text)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with their cells below each other, as long as they are."""
    return terminal.table([[printable(cell) for cell in row] for row in rows])


def table(rows: Sequence[Sequence[str]], *, wide: bool = False) -> str:
    """Rows with a head, in the colours of a terminal, and unless `wide` no wider than that."""
    return terminal.table(
        [[printable(cell) for cell in row] for row in rows],
        limit=None if wide else terminal.width(),
        colours=terminal.coloured(),
    )
