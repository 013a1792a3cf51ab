"""Events that wait for a person, from the broker to the function."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_lab import Lab, Mosquitto, Pki, event, scaled, started, world

from koren_gateway.queue.store import Store
from koren_gateway.settings import Settings

pytestmark = pytest.mark.asyncio


async def held(lab: Lab) -> list[dict[str, Any]]:
    its: list[dict[str, Any]] = (await lab.admin("GET", "/v1/held")).json()["held"]
    return its


async def test_a_held_incident_starts_nothing_until_a_person_releases_it(lab: Lab) -> None:
    async with lab.keda() as keda:
        await lab.broker.publish(subject="a", sequence=1, hold=True)
        await lab.broker.publish(subject="a", sequence=2, happened="updated", hold=True)
        await lab.broker.receipt("held", 2, subject="a")
        its = await lab.function()
        assert its and (its["active"], its["runnable"], its["open_incidents"]) == (False, 0, 0)
        assert (await keda.IsActive(scaled())).result is False
        assert await lab.metric("held_events") == 2

        first, second = await held(lab)
        assert first["state"] == "held" and first["event"]["id"] == "a-detected-1"
        assert first["received"] < first["until"] and first["by"] is None and first["bytes"] > 0
        shown = (await lab.admin("GET", f"/v1/held/{first['id']}")).json()
        assert shown["message"]["data"] == {"severity": "minor"}

        # By any of its events the whole incident is released.
        answer = await lab.admin("POST", f"/v1/held/{second['id']}/release")
        assert answer.status_code == 202
        assert answer.json() == {"released": ["a-detected-1", "a-updated-2"], "subject": "a"}
        assert (await keda.IsActive(scaled())).result is True
    its = await lab.function()
    assert its and its["open_incidents"] == 1
    await lab.broker.publish(subject="a", sequence=3, happened="updated", hold=True)
    await lab.broker.receipt("received", 3, subject="a")
    pod = lab.pod()
    for sequence in (1, 2, 3):
        got = await pod.next()
        assert (got["sequence"], got["releasedby"]) == (sequence, "admin")
        assert await pod.post("response", {}) == 204
    await lab.broker.receipt("succeeded", 3, subject="a")
    assert lab.broker.states("a")[:2] == ["held", "held"]
    assert await held(lab) == []
    assert (await lab.admin("POST", f"/v1/held/{first['id']}/release")).status_code == 404


async def test_a_dismissed_incident_never_starts_and_can_be_looked_at(lab: Lab) -> None:
    await lab.broker.publish(subject="a", sequence=1, hold=True)
    await lab.broker.receipt("held", subject="a")
    [one] = await held(lab)
    answer = await lab.admin("POST", f"/v1/held/{one['id']}/dismiss")
    assert answer.status_code == 200
    assert answer.json() == {"dismissed": ["a-detected-1"], "subject": "a"}
    await lab.broker.receipt("dismissed", subject="a")
    await lab.broker.publish(subject="a", sequence=2, happened="updated", hold=True)
    await lab.broker.receipt("dismissed", 2, subject="a")
    assert {(e["state"], e["by"]) for e in await held(lab)} == {("dismissed", "admin")}
    shown = (await lab.admin("GET", f"/v1/held/{one['id']}")).json()
    assert shown["message"]["subject"] == "a"
    for what in ("release", "dismiss"):
        refused = await lab.admin("POST", f"/v1/held/{one['id']}/{what}")
        assert refused.status_code == 409 and "dismissed by admin" in refused.json()["error"]
    # Others are not concerned.
    await lab.broker.publish(subject="b", sequence=1)
    pod = lab.pod()
    assert (await pod.next())["subject"] == "b"
    assert await pod.post("response", {}) == 204
    assert lab.broker.states("a") == ["held", "dismissed", "held", "dismissed"]


async def test_each_verb_is_a_right_of_its_own(lab: Lab) -> None:
    await lab.broker.publish(subject="a", hold=True)
    await lab.broker.receipt("held")
    [one] = await held(lab)
    requests = {
        "list": ("GET", "/v1/held"),
        "get": ("GET", f"/v1/held/{one['id']}"),
        "dismiss": ("POST", f"/v1/held/{one['id']}/dismiss"),
        "release": ("POST", f"/v1/held/{one['id']}/release"),
    }
    for verb, (method, path) in requests.items():
        lab.cluster.rights = {("guard", other, "heldevents") for other in requests if other != verb}
        refused = await lab.admin(method, path, token="user/guard")
        assert refused.status_code == 403 and f"{verb} heldevents" in refused.json()["error"]
    lab.cluster.rights = {("guard", "release", "heldevents")}
    method, path = requests["release"]
    assert (await lab.admin(method, path, token="user/guard")).status_code == 202
    assert (await lab.pod().next())["releasedby"] == "guard"


async def test_what_nobody_releases_in_time_is_dismissed(
    lab_settings: Settings, pki: Pki, store: Store, clean_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koren_gateway.queue.tidying._EVERY_S", 0.1)
    async with started(lab_settings.model_copy(update={"hold_s": 0.5}), pki) as lab:
        await lab.broker.publish(subject="a", hold=True)
        await lab.broker.receipt("dismissed", subject="a")
        assert lab.broker.states("a") == ["held", "dismissed"]
        [one] = await held(lab)
        assert (one["state"], one["by"]) == ("dismissed", None)
        refused = await lab.admin("POST", f"/v1/held/{one['id']}/release")
        assert refused.status_code == 409 and "its time ran out" in refused.json()["error"]


async def test_a_repeat_of_a_held_event_is_told_how_it_stands(lab: Lab) -> None:
    for _ in range(2):
        await lab.broker.publish(subject="a", hold=True)
    await lab.broker.receipt("held", 2, subject="a")
    [one] = await held(lab)
    assert (await lab.admin("POST", f"/v1/held/{one['id']}/dismiss")).status_code == 200
    await lab.broker.publish(subject="a", hold=True)
    await lab.broker.receipt("dismissed", 2, subject="a")
    await lab.broker.publish(subject="b", hold=True)
    await lab.broker.receipt("held", subject="b")
    [other] = [e for e in await held(lab) if e["state"] == "held"]
    assert (await lab.admin("POST", f"/v1/held/{other['id']}/release")).status_code == 202
    await lab.broker.publish(subject="b", hold=True)
    await lab.broker.receipt("received", 2, subject="b")
    assert lab.broker.states("a") == ["held", "held", "dismissed", "dismissed"]
    pod = lab.pod()
    assert (await pod.next())["subject"] == "b"
    assert await pod.post("response", {}) == 204
    await lab.queued(runnable=0, in_flight=0)


async def test_held_events_are_read_by_page(lab: Lab) -> None:
    for number in range(3):
        await lab.broker.publish(subject=f"s{number}", hold=True)
    await lab.broker.receipt("held", 3)
    [one] = [e for e in await held(lab) if e["event"]["subject"] == "s0"]
    assert (await lab.admin("POST", f"/v1/held/{one['id']}/dismiss")).status_code == 200
    found: list[tuple[str, str]] = []
    query = "limit=1"
    while query:
        page = (await lab.admin("GET", f"/v1/held?{query}")).json()
        found += [(e["event"]["subject"], e["state"]) for e in page["held"]]
        query = f"limit=1&after={page['next']}" if page["next"] else ""
    assert found == [("s1", "held"), ("s2", "held"), ("s0", "dismissed")]
    assert (await lab.admin("GET", "/v1/held?after=nonsense")).status_code == 400


async def test_people_decide_also_while_the_broker_is_away(pki: Pki, tmp_path: Path) -> None:
    # Held events have 10 % of Redis' memory.
    async with world(tmp_path, pki, maxmemory="12mb") as there:
        lab = there.lab
        await lab.broker.publish(subject="a", hold=True)
        await lab.broker.receipt("held", subject="a")
        for number in range(4):
            big = {"subject": f"big-{number}", "hold": True, "data": "x" * 400_000}
            await lab.broker.publish(**big)
        full = await lab.broker.receipt("dead-lettered")
        assert "held events are full" in (full.error or "")
        await lab.broker.close()
        there.mosquitto.stop()
        one = next(e for e in await held(lab) if e["event"]["subject"] == "a")
        assert (await lab.admin("POST", f"/v1/held/{one['id']}/release")).status_code == 202
        pod = lab.pod()
        assert (await pod.next())["subject"] == "a"
        assert await pod.post("response", {"posted": 1}) == 204
        there.mosquitto.start()
        lab.broker = await type(lab.broker).connect(pki, there.mosquitto.port)
        assert (await lab.broker.receipt("succeeded", subject="a")).result == {"posted": 1}
        await lab.broker.close()


async def test_a_person_and_an_event_at_the_same_time_lose_nothing(lab: Lab) -> None:
    await lab.broker.publish(subject="a", sequence=0, happened="updated", hold=True)
    await lab.broker.receipt("held", subject="a")
    [one] = await held(lab)

    async def publish() -> None:
        for sequence in range(1, 30):
            await lab.broker.publish(subject="a", sequence=sequence, happened="updated", hold=True)

    publishing = asyncio.create_task(publish())
    answer = await lab.admin("POST", f"/v1/held/{one['id']}/release")
    assert answer.status_code == 202
    await publishing
    pod = lab.pod()
    for sequence in range(30):
        assert (await pod.next())["sequence"] == sequence
        assert await pod.post("response", {}) == 204
    assert await held(lab) == []


OPERATOR = "system:serviceaccount:koren-console:console-operator"


@pytest.mark.parametrize(
    ("caller", "behalf", "released_by"),
    [
        (OPERATOR, "minji@example.kr", "console:minji@example.kr"),
        (OPERATOR, "%EA%B9%80%EB%AF%BC%EC%A7%80", "console:김민지"),
        (OPERATOR, "mal%0Alory%00%E2%80%AE%7F", "console:mallory"),
        (OPERATOR, "x" * 5000, "console:" + "x" * 128),
        (OPERATOR, "%20%0A", OPERATOR),
        ("guard", "minji", "guard"),
        (
            "system:serviceaccount:functions:console-operator",
            "minji",
            "system:serviceaccount:functions:console-operator",
        ),
        ("system:serviceaccount:koren-console:console", "minji", "system:serviceaccount:koren-console:console"),
    ],
)
async def test_only_the_console_is_believed_for_whom_it_acts(
    lab: Lab, caller: str, behalf: str, released_by: str
) -> None:
    lab.cluster.rights = {(caller, "release", "heldevents")}
    await lab.broker.publish(subject="a", hold=True)
    await lab.broker.receipt("held")
    [one] = await held(lab)
    path, headers = f"/v1/held/{one['id']}/release", {"Koren-On-Behalf": behalf, "Koren-Token": f"user/{caller}"}
    assert (await lab.admin("POST", path, headers=headers)).status_code == 202
    assert (await lab.pod().next())["releasedby"] == released_by


async def test_who_acts_for_somebody_needs_the_right_itself(lab: Lab) -> None:
    await lab.broker.publish(subject="a", hold=True)
    await lab.broker.receipt("held")
    [one] = await held(lab)
    headers = {"Koren-On-Behalf": "admin", "Koren-Token": f"user/{OPERATOR}"}
    assert (await lab.admin("POST", f"/v1/held/{one['id']}/release", headers=headers)).status_code == 403
    lab.cluster.rights = {(OPERATOR, "dismiss", "heldevents")}
    assert (await lab.admin("POST", f"/v1/held/{one['id']}/dismiss", headers=headers)).status_code == 200
    assert [dismissed["by"] for dismissed in await held(lab)] == ["console:admin"]


async def test_nobody_but_the_gateway_says_who_released_an_event(lab: Lab) -> None:
    forged = event(subject="a") | {"releasedby": "admin"}
    await lab.broker.publish(body=json.dumps(forged).encode())
    await lab.broker.receipt("dead-lettered", subject="a")
    [letter] = await lab.dead_letters()
    assert "releasedby is written by the gateway" in letter["reason"]
    called = await lab.admin(
        "POST",
        "/v1/functions/report-incident/invoke?wait=false",
        content=json.dumps(forged),
        headers={"Content-Type": "application/cloudevents+json"},
    )
    assert called.status_code == 400 and "releasedby" in called.text


async def test_nothing_is_released_while_it_is_not_known_which_functions_get_it(lab: Lab) -> None:
    await lab.broker.publish(subject="a", sequence=1, hold=True)
    await lab.broker.receipt("held", 1, subject="a")
    [one] = await held(lab)
    path = f"/v1/held/{one['id']}/release"
    # As in a gateway that has just started.
    in_step = lab.gateway._triggers._in_step
    in_step.clear()
    refused = await lab.admin("POST", path)
    assert refused.status_code == 503 and "not known yet" in refused.json()["error"]
    in_step.set()
    assert (await lab.admin("POST", path)).status_code == 202
    assert (await lab.pod().next())["subject"] == "a"
