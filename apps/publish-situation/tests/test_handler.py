import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handler
import pytest
from conftest import APPS, Centre, Event, make_event
from doubles.gateway import StateDouble

from koren_runtime import Reject, RetryAfter, state


def publish(event: Event) -> dict[str, Any]:
    return handler.handler(event, {})


@pytest.mark.usefixtures("to_its")
def test_an_incident_is_published_once_a_version_and_closed(centre: Centre) -> None:
    events = [make_event(), make_event("updated", 2, severity="minor"), make_event("cleared", 3)]

    results = [publish(event) for event in events]

    path, headers, _ = centre.taken[0]
    assert (path, headers["Authorization"]) == ("/events?of=koren", "Bearer t0ken")
    records = [json.loads(content) for _, _, content in centre.taken]
    assert [record["version"] for record in records] == [1, 2, 3]
    assert [record["endDate"] for record in records] == ["", "", "20261125004830"]
    assert len({record["incidentId"] for record in records}) == 1
    assert len({headers["Idempotency-Key"] for _, headers, _ in centre.taken}) == 3
    assert [result["closed"] for result in results] == [False, False, True]


@pytest.mark.usefixtures("to_its")
def test_what_is_published_or_older_or_late_is_not_sent(centre: Centre) -> None:
    first, second, end = make_event(), make_event("updated", 2), make_event("cleared", 4)

    sent = [publish(event)["sent"] for event in (second, second, first, end, end, make_event("updated", 5))]

    assert sent == [True, False, False, True, False, False]
    assert [json.loads(content)["version"] for _, _, content in centre.taken] == [2, 4]


@pytest.mark.usefixtures("to_its")
def test_a_try_that_died_is_repeated_word_for_word(centre: Centre, kept: StateDouble) -> None:
    centre.answers = [None]
    with pytest.raises(handler.Refused, match="no answer from"):
        publish(make_event())
    kept.down = True
    with pytest.raises(state.StateError):
        publish(make_event())
    kept.down = False

    assert publish(make_event())["sent"]

    (_, lost, content), (_, again, repeated) = centre.taken
    assert content == repeated
    assert lost["Idempotency-Key"] == again["Idempotency-Key"]


@pytest.mark.usefixtures("to_its")
def test_what_a_person_has_confirmed_stays_confirmed(centre: Centre) -> None:
    publish(make_event())
    publish(make_event("updated", 2, released_by="console:kim"))
    publish(make_event("cleared", 3))

    assert [json.loads(content)["confirmed"] for _, _, content in centre.taken] == [False, True, True]
    assert b"kim" not in centre.taken[1][2]


@pytest.mark.usefixtures("to_its")
@pytest.mark.parametrize(
    ("status", "headers", "raised"),
    [
        (400, {}, Reject),
        (422, {}, Reject),
        (401, {}, handler.Refused),
        (500, {}, handler.Refused),
        (503, {}, handler.Refused),
        (302, {"Location": "https://elsewhere.example"}, handler.Refused),
        (429, {"Retry-After": "30"}, RetryAfter),
        (503, {"Retry-After": "30"}, RetryAfter),
    ],
)
def test_a_refusal_is_told_and_the_record_can_be_sent_again(
    centre: Centre, status: int, headers: dict[str, str], raised: type[Exception]
) -> None:
    centre.answers = [(status, headers)]
    with pytest.raises(raised, match=f"answered {status}: what") as refusal:
        publish(make_event())

    assert getattr(refusal.value, "seconds", 30) == 30
    assert publish(make_event())["sent"]


@pytest.mark.usefixtures("to_its")
def test_an_endpoint_of_an_unknown_authority_gets_nothing(centre: Centre, to_its: Path) -> None:
    (to_its / "ca.crt").unlink()

    with pytest.raises(handler.Refused, match="certificate"):
        publish(make_event())

    assert centre.taken == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no file format; give the function's secret a key of that name"),
        ({"format": "fax"}, "says 'fax'; it must be its or datex"),
        ({"format": "datex", "url": "https://x"}, "no file publisher"),
        ({"format": "its"}, "no file url"),
        ({"format": "its", "url": "http://x"}, "must be like https://"),
        ({"format": "its", "url": "https://x:y/"}, "must be like https://"),
        ({"format": "its", "url": "https://u:p@x/"}, "with no login in it"),
        ({"format": "its", "url": "https://x", "token": "a\nb"}, "token must be one line"),
    ],
)
def test_what_the_secret_lacks_is_named(secret: Callable[..., Path], files: dict[str, str], message: str) -> None:
    with pytest.raises(handler.Misconfigured, match=message):
        handler.Endpoint(str(secret(**files)))


@pytest.mark.usefixtures("to_its")
@pytest.mark.parametrize(
    "broken",
    [
        {"camera": None},
        {"camera": {"id": "x", "latitude": 91, "longitude": 0, "name": {"ko": "가", "en": "a"}}},
        {"what": "fire"},
        {"severity": ["minor"]},
        {"started_at": "2026-11-24T15:16:05"},
        {"started_at": 5},
    ],
)
def test_an_event_that_says_too_little_is_a_dead_letter(centre: Centre, broken: dict[str, Any]) -> None:
    with pytest.raises(Reject, match="the event is none of an incident"):
        publish(make_event(**broken))

    assert centre.taken == []


@pytest.mark.parametrize(("kind", "other"), [("its", "xml.etree.ElementTree"), ("datex", "its")])
def test_a_pod_loads_what_its_format_needs(secret: Callable[..., Path], kind: str, other: str) -> None:
    folder = secret(format=kind, url="https://x", publisher="koren")
    path = [str(APPS / "publish-situation"), str(APPS / "runtime/src")]
    code = f"import sys; sys.path[:0] = {path}; import handler; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        env={"SITUATION_SECRET": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    modules = run.stdout.split()
    assert kind in modules and other not in modules
