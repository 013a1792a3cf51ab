# SPDX-License-Identifier: Apache-2.0
"""The board of a site, against a region of real servers: what happens there is on the board, and acts reach it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gateway_lab import Pki, until
from region_lab import Region, region
from test_incidents import CAMERA, JPEG, detected
from test_kubernetes import PROGRAMS, token_of

from koren_console import api
from koren_console.auth import Audit
from koren_console.history import History
from koren_console.model import Health, Refused, Role, Topic
from koren_console.settings import RegionSettings, Text
from koren_console.site import Site
from koren_events.accident import accident_cleared
from koren_events.event import Event, event_topic
from koren_events.times import utc_now

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not all(program.is_file() for program in PROGRAMS), reason="the bundle is not built"),
]


@dataclass
class Look:
    """A region and the board that looks at it."""

    region: Region
    site: Site
    history: History

    async def until(self, condition: Any, what: str, timeout_s: float = 15) -> float:
        """Seconds until it holds on the board."""
        begin = time.monotonic()
        await until(condition, what, timeout_s)
        return time.monotonic() - begin

    async def publish(self, event: Event) -> None:
        await self.region.lab.broker.publish(event_topic(event), event.to_json())

    async def detect(self, incident: str, **more: Any) -> Event:
        """An accident is detected now, and the board has it."""
        now = utc_now()
        event = detected(incident=incident, started_at=now, time=now, **more)
        await self.publish(event)
        await self.until(lambda: self.site._incidents.get(incident) is not None, f"{incident} is there")
        return event

    async def dead_letter(self, incident: str) -> Event:
        """An event that no attempt could handle."""
        event = await self.detect(incident)
        await self.region.start_pod(f"pod-{incident}")
        pod = self.region.lab.pod(f"pod-{incident}", token=await self.region.pod_token(f"pod-{incident}"))
        assert (await pod.next())["id"] == event.id
        assert await pod.post("error", {"type": "Reject", "message": "no such camera", "reject": True}) == 204
        await self.region.end_pod(f"pod-{incident}")
        return event


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def look(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> AsyncIterator[Look]:
    async with (
        region(tmp_path_factory.mktemp("region"), pki) as made,
        looking(made, tmp_path_factory.mktemp("data")) as found,
    ):
        yield found


@contextlib.asynccontextmanager
async def looking(made: Region, data: Path, **more: Any) -> AsyncIterator[Look]:
    settings = made.settings(data, **more)
    history = History(settings.data, days=30, megabytes=64)
    site = Site(settings, history, Audit(history))
    running = asyncio.create_task(site.run())
    try:
        found = Look(made, site, history)
        await found.until(lambda: bool(site.regions()[0].nodes), "the board knows the region's nodes")
        yield found
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        history.close()


async def test_a_region_shows_its_nodes_and_parts(look: Look) -> None:
    await look.until(lambda: look.site.region("seoul").health is Health.OK, "seoul is well")  # type: ignore[union-attr]
    seoul = look.site.region("seoul")
    assert seoul is not None
    assert [(node.name, node.version) for node in seoul.nodes] == [("seoul-cp", "v1.36.3"), ("seoul-w1", "v1.36.3")]
    assert [(part.kind, part.name, part.health) for part in seoul.parts] == [
        ("gateway", "gateway-0", Health.OK),
        ("intake", "gateway", Health.OK),
    ]
    assert seoul.pods == 0


async def test_a_function_is_described_without_its_variables_values(look: Look) -> None:
    await look.until(lambda: look.site.function("seoul", "report-incident") is not None, "the function")
    function = look.site.function("seoul", "report-incident")
    assert function is not None
    assert (function.status, function.maximum, function.filter) == ("IDLE", 5, "events/+/+/accident")
    assert function.description["env"] == ["API_KEY"]
    assert "not-for-viewers" not in json.dumps(function.description)


async def test_a_pods_start_is_on_the_board_within_a_second(look: Look) -> None:
    changes = look.site.changes()
    following = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    await look.region.start_pod("pod-1")
    begin = time.monotonic()
    topics: set[Topic] = set()
    while Topic.FUNCTIONS not in topics:
        topics = await asyncio.wait_for(following, 5)
        following = asyncio.ensure_future(anext(changes))

    def ready() -> bool:
        function = look.site.function("seoul", "report-incident")
        return function is not None and [pod.state for pod in function.pods] == ["Ready"]

    await look.until(ready, "the pod is ready on the board")
    assert time.monotonic() - begin < 1
    assert look.site.summary().pods == 1
    await look.region.end_pod("pod-1")
    assert await look.until(lambda: look.site.summary().pods == 0, "the pod has gone") < 1
    following.cancel()


async def test_an_incident_from_its_event_to_zero(look: Look) -> None:
    event = await look.detect("whole-life")
    await look.region.start_pod("pod-2")
    pod = look.region.lab.pod("pod-2", token=await look.region.pod_token("pod-2"))
    assert (await pod.next())["id"] == event.id
    await pod.post("entered")
    assert await pod.post("response", {"url": "https://sns.test/1", "text": {"ko": "사고", "en": "accident"}}) == 204

    def posted() -> bool:
        one = look.site._incidents.get("whole-life")
        return one is not None and one.post == "https://sns.test/1" and one.pods == 1

    await look.until(posted, "it is posted")
    now = utc_now()
    over = accident_cleared(event, cleared_at=now, time=now)
    await look.publish(over)
    assert (await pod.next())["id"] == over.id
    assert await pod.post("response") == 204
    await look.region.end_pod("pod-2")

    def gone() -> bool:
        one = look.site._incidents.get("whole-life")
        return one is not None and one.state == "cleared" and "gone" in {mark.what for mark in one.marks}

    await look.until(gone, "its function is gone")
    one = await look.site.incident("whole-life")
    assert one is not None and one.place.ko == CAMERA.name.ko
    what = [mark.what for mark in one.marks]
    assert (
        what.index("seen") < what.index("durable") < what.index("entered") < what.index("posted") < what.index("gone")
    )
    assert await look.site.picture(one.picture.removeprefix("/pictures/")) == ("image/jpeg", JPEG)
    after = History(look.history.file.parent, days=30, megabytes=64)
    look.history.flush()
    kept = await after.incident("whole-life")
    assert kept == one
    after.close()


async def test_a_held_event_is_shown_and_a_person_decides(look: Look) -> None:
    for incident, act, state in (
        ("held-1", look.site.acts.release, "open"),
        ("held-2", look.site.acts.dismiss, "dismissed"),
    ):
        await look.detect(incident, hold=True)

        def waits(incident: str = incident) -> bool:
            return incident in {one.subject for one in look.site.held()}

        await look.until(waits, "it waits")
        [held] = [one for one in look.site.held() if one.subject == incident]
        assert (held.place.en, held.confidence, held.why.en) == (
            CAMERA.name.en,
            0.97,
            "rear-end collision, moderate severity, 1 object involved",
        )
        assert held.picture.startswith("/pictures/") and held.ends > held.since
        assert held.preview is not None and held.first_post, held.no_preview
        assert "담당자가 확인함" in held.preview.ko and "Confirmed by an operator" in held.preview.en
        with pytest.raises(Refused, match="Not allowed"):
            await act("seoul", held.id, "park", Role.VIEWER)
        outcome = await act("seoul", held.id, "김 기사", Role.OPERATOR)
        assert (outcome.done, outcome.failed) == (1, 0)

        def decided(incident: str = incident, state: str = state) -> bool:
            one = look.site._incidents.get(incident)
            return one is not None and one.state == state and not waits(incident)

        await look.until(decided, f"{incident} is {state}")
        with pytest.raises(Refused):
            await act("seoul", held.id, "김 기사", Role.OPERATOR)
    lines = [(line.who, line.what, line.outcome) for line in await look.site.audit()]
    assert ("김 기사", "release", "done") in lines
    assert ("park", "release", "refused") in lines


async def test_dead_letters_are_shown_sent_again_and_thrown_away(look: Look) -> None:
    # What the tests before left in the queue goes first.
    await look.region.start_pod("pod-3")
    pod = look.region.lab.pod("pod-3", token=await look.region.pod_token("pod-3"))
    while await pod.next_now() is not None:
        await pod.post("response", {})
    await look.region.end_pod("pod-3")
    events = [await look.dead_letter(f"dead-{number}") for number in range(2)]

    async def there() -> bool:
        return len(await look.site.dead_letters()) == 2

    await look.until(there, "two dead letters")
    letters = {one.event: one for one in await look.site.dead_letters()}
    first, second = (letters[event.id] for event in events)
    assert (first.function, first.reason, first.subject) == ("report-incident", "Reject: no such camera", "dead-0")
    letter = await look.site.dead_letter("seoul", first.id)
    assert base64.b64decode(letter["message"]["data"]["image"]["base64"]) == JPEG
    outcome = await look.site.acts.redrive("seoul", [first.id], "park", Role.VIEWER)
    assert (outcome.done, outcome.failed) == (0, 1)
    outcome = await look.site.acts.redrive("seoul", [first.id, "made-up"], "kim", Role.OPERATOR)
    assert (outcome.done, outcome.failed) == (1, 1) and "made-up" in outcome.message.en
    outcome = await look.site.acts.purge("seoul", [second.id], "kim", Role.OPERATOR)
    assert (outcome.done, outcome.failed) == (1, 0)
    assert await look.site.dead_letters() == []
    with pytest.raises(Refused, match="not there any more"):
        await look.site.dead_letter("seoul", first.id)


async def test_a_call_is_answered_and_a_viewer_may_not(look: Look) -> None:
    await look.region.start_pod("pod-4")
    pod = look.region.lab.pod("pod-4", token=await look.region.pod_token("pod-4"))

    async def serve() -> None:
        while True:
            event = await pod.next()
            if event is not None:
                await pod.post("response", {"got": event["data"]} if event["source"].startswith("/functions") else {})

    serving = asyncio.create_task(serve())
    answer = await look.site.acts.call("seoul", "report-incident", b'{"a": 1}', "kim", Role.OPERATOR)
    assert (answer["status"], answer["answer"]) == (200, {"got": {"a": 1}})
    assert answer["event"] and answer["seconds"] > 0
    with pytest.raises(Refused, match="Not allowed"):
        await look.site.acts.call("seoul", "report-incident", b"{}", "park", Role.VIEWER)
    with pytest.raises(Refused, match="no function"):
        await look.site.acts.call("seoul", "nothing", b"{}", "kim", Role.OPERATOR)
    serving.cancel()
    await look.region.end_pod("pod-4")


async def test_the_consoles_own_account_can_do_nothing_by_itself(look: Look) -> None:
    token = (look.region.folder / "console.token").read_text()
    async with httpx.AsyncClient(
        base_url=f"https://localhost:{look.region.server.port}",
        verify=look.region.pki.client_context(),
        headers={"Authorization": f"Bearer {token}"},
    ) as console:
        for method, path in (
            ("GET", "/api/v1/namespaces/functions/secrets"),
            ("GET", "/api/v1/namespaces/koren-console/secrets"),
            ("DELETE", "/api/v1/namespaces/functions/pods/x"),
            ("POST", "/api/v1/namespaces/koren-faas/serviceaccounts/gateway/token"),
            ("POST", "/api/v1/namespaces/koren-console/serviceaccounts/console/token"),
            ("GET", "/api/v1/namespaces/koren-faas/services/gateway:metrics/proxy/metrics"),
            ("POST", "/api/v1/namespaces/functions/pods/x/exec"),
        ):
            answer = await console.request(method, path, json={})
            assert answer.status_code == 403, path


async def test_the_api_is_for_tokens_that_may_read_it(look: Look) -> None:
    from starlette.applications import Starlette

    from koren_console.app import _failed

    app = Starlette(
        routes=api.routes(look.site, api.Callers(look.site.central)),
        exception_handlers={Exception: _failed, **_json_errors()},
    )
    transport = httpx.ASGITransport(app=app)
    server = look.region.server
    async with httpx.AsyncClient(transport=transport, base_url="https://console.test") as caller:
        assert (await caller.get("/v1/regions")).status_code == 401
        good = await token_of(server, "koren-console", "reader", None, "console")
        other_audience = await token_of(server, "koren-console", "reader", None, "gateway")
        other_account = await token_of(server, "koren-console", "console", None, "console")
        for token, status in ((good, 200), (other_audience, 401), (other_account, 403), ("x.y.z", 401)):
            answer = await caller.get("/v1/regions", headers={"Koren-Token": token})
            assert answer.status_code == status, answer.text
        headers = {"Koren-Token": good}
        regions = (await caller.get("/v1/regions", headers=headers)).json()["regions"]
        assert regions[0]["name"] == "seoul" and regions[0]["title"] == {"ko": "서울", "en": "Seoul"}
        incidents = (await caller.get("/v1/incidents?state=cleared", headers=headers)).json()["incidents"]
        assert {one["state"] for one in incidents} == {"cleared"}
        one = (await caller.get("/v1/incidents/whole-life", headers=headers)).json()
        assert one["marks"][0]["at"].endswith("Z")
        assert (await caller.get("/v1/incidents/none", headers=headers)).status_code == 404
        assert (await caller.get("/v1/alerts", headers=headers)).json() == {"alerts": []}
        past = await caller.get("/v1/alerts/past", headers=headers)
        assert past.status_code == 503 and "no Alertmanager" in past.json()["error"]
        top = (await caller.get("/v1/top", headers=headers)).json()
        assert top["summary"]["regions"] == 1 and top["functions"][0]["name"] == "report-incident"


def _json_errors() -> dict[Any, Any]:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code)

    return {HTTPException: failed}


async def test_a_region_that_is_cut_off_is_unknown_within_ten_seconds_and_comes_back(look: Look) -> None:
    look.region.server.stop_server()

    def unknown() -> bool:
        seoul = look.site.region("seoul")
        return seoul is not None and seoul.health is Health.UNKNOWN

    assert await look.until(unknown, "seoul is unknown", 20) < 10
    seoul = look.site.region("seoul")
    assert seoul is not None and seoul.since is not None and "go on by themselves" in seoul.reason.en
    assert look.site.summary().answering == 0
    assert seoul.pods is None, "unknown, not zero"
    with pytest.raises(Refused):
        await look.site.dead_letters()
    event = await look.detect("while-cut")

    def not_unknown() -> bool:
        seoul = look.site.region("seoul")
        return seoul is not None and seoul.health is Health.ACT

    await look.until(not_unknown, "its receipts are heard: it is there, and its API server is not")
    await look.region.server.start()

    def well() -> bool:
        seoul = look.site.region("seoul")
        return seoul is not None and seoul.health is Health.OK

    await look.until(well, "seoul is well again", 40)
    await look.region.start_pod("pod-5")
    await look.until(lambda: look.site.summary().pods == 1, "watches go on", 20)
    await look.region.end_pod("pod-5")
    assert event.subject == "while-cut"


async def test_one_region_that_never_answered_takes_nothing_from_the_others(look: Look, tmp_path: Path) -> None:
    nowhere = RegionSettings(
        name="busan",
        title=Text(ko="부산", en="Busan"),
        server="https://192.0.2.1:6443",
        authority=tmp_path / "none.crt",
        token=tmp_path / "none.token",
    )
    seoul = look.region.settings(tmp_path).regions[0]
    (tmp_path / "data").mkdir()
    # Its broker connection takes the place of the other console's, so only its clusters are looked at.
    async with looking(look.region, tmp_path / "data", regions=[seoul, nowhere]) as both:

        def told() -> bool:
            return [one.health for one in both.site.regions()] == [Health.OK, Health.UNKNOWN]

        await both.until(told, "seoul is well, busan unknown")
        assert both.site.summary().answering == 1
        assert await both.site.dead_letters() == []
