# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.koren.faas.plugins.module_utils.incident import Incident, WentWrong

from koren_events import (
    Camera,
    Event,
    Receipt,
    ReceiptState,
    SeenObject,
    Text,
    accident_cleared,
    accident_detected,
    event_topic,
    receipt_topic,
)

START = datetime(2026, 7, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def detected(*, region: str = "seoul", camera: str = "cctv-1", seconds: float = 1) -> Event:
    text = Text(ko="이름", en="name")
    return accident_detected(
        region=region,
        camera=Camera(id=camera, name=text, latitude=37.5, longitude=127.0, road=text, direction=text),
        severity="moderate",
        confidence=0.9,
        what="rear_end",
        started_at=at(seconds),
        objects=[SeenObject(object_class="car", track=1, box=(0, 0, 9, 9), involved=True)],
        time=at(seconds),
    )


def receipt(event: Event, state: ReceiptState, region: str = "seoul", **more: object) -> tuple[str, bytes]:
    values = {"time": at(5), "function": "report", "attempt": 1} | more
    made = Receipt(
        id=event.id, source=event.source, region=region, subject=event.subject, state=state, **values
    )
    return receipt_topic(region, event.source, event.id), made.to_json()


def followed() -> Incident:
    return Incident("seoul", "cctv-1", "report", START)


def accept(incident: Incident, event: Event, seconds: float) -> None:
    incident.accept(event_topic(event), event.to_json(), at(seconds))


def test_steps_have_the_times_that_each_part_gave_whatever_came_first() -> None:
    incident, event = followed(), detected()
    phases = {"durable": at(1.2), "pod_started": at(1.4), "handler_entered": at(1.5), "handler_done": at(2)}
    incident.accept(
        *receipt(event, ReceiptState.SUCCEEDED, phases=phases, result={"uri": "at://post"}), at(2.1)
    )
    assert list(incident.steps()) == []
    accept(incident, event, 1.1)
    closing = accident_cleared(event, cleared_at=at(30), time=at(36))
    accept(incident, closing, 36.1)
    incident.accept(
        *receipt(closing, ReceiptState.SUCCEEDED, phases={"handler_done": at(37)}, result={"uri": "at://p"}), at(37.1)
    )
    assert [(step.name, step.time) for step in incident.steps()] == [
        ("seen", at(1)),
        ("sent", at(1.1)),
        ("durable", at(1.2)),
        ("pod started", at(1.4)),
        ("handler entered", at(1.5)),
        ("posted", at(2)),
        ("cleared", at(36)),
        ("edited", at(37)),
    ]


def test_only_the_cameras_first_incident_since_then_counts() -> None:
    incident = followed()
    accept(incident, detected(seconds=-1), 0)
    accept(incident, detected(camera="cctv-2"), 1)
    first, second = detected(seconds=2), detected(seconds=3)
    accept(incident, first, 2)
    accept(incident, second, 3)
    accept(incident, accident_cleared(second, cleared_at=at(4), time=at(4)), 4)
    assert incident.detected == first
    assert [step.name for step in incident.steps()] == ["seen", "sent"]


def test_another_regions_event_is_wrong() -> None:
    with pytest.raises(WentWrong, match="busan was not to see"):
        accept(followed(), detected(region="busan", camera="cctv-b"), 1)


def test_another_regions_receipt_is_wrong() -> None:
    with pytest.raises(WentWrong, match="busan was not to do"):
        followed().accept(*receipt(detected(), ReceiptState.RECEIVED, region="busan"), at(1))


def test_another_functions_receipts_do_not_count() -> None:
    incident, event = followed(), detected()
    accept(incident, event, 1)
    incident.accept(*receipt(event, ReceiptState.DEAD_LETTERED, function="other", error="no"), at(2))
    assert [step.name for step in incident.steps()] == ["seen", "sent"]


@pytest.mark.parametrize(
    ("state", "words"),
    [(ReceiptState.DEAD_LETTERED, "dead letter: no road"), (ReceiptState.NO_FUNCTION, "no function in seoul")],
)
def test_an_event_that_came_to_nothing_is_wrong(state: ReceiptState, words: str) -> None:
    with pytest.raises(WentWrong, match=words):
        followed().accept(*receipt(detected(), state, error="no road"), at(2))


def test_failed_attempts_are_told() -> None:
    incident = followed()
    incident.accept(*receipt(detected(), ReceiptState.FAILED, error="no way"), at(2))
    assert list(incident.failures()) == ["attempt 1 failed: no way"]
