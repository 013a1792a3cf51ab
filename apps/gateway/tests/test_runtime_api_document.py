"""The OpenAPI document of the Runtime API says what the gateway does, and the gateway does what it says."""

import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gateway_lab import Pod, world
from jsonschema import Draft202012Validator

from koren_gateway.api import http, runtime
from koren_gateway.api.runtime import RuntimeApi
from koren_gateway.queue.state import KEY_MAX_CHARACTERS

FILE = Path(__file__).parents[3] / "docs" / "reference" / "runtime-api.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
METHODS = ("get", "put", "post", "delete")

Outcome = tuple[str, str, str]
"""Method, path and status, as the document has them."""


def resolved(part: Any) -> Any:
    """A part of the document, or what it refers to."""
    while isinstance(part, dict) and "$ref" in part:
        found: Any = DOCUMENT
        for word in part["$ref"].removeprefix("#/").split("/"):
            found = found[word]
        part = found
    return part


def parameters(path: str, method: str) -> list[Any]:
    """What a request of the document may carry."""
    return [resolved(one) for one in DOCUMENT["paths"][path][method]["parameters"]]


def operations() -> Iterator[tuple[str, str, Any]]:
    """Each method and path of the document, with what it says of it."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def test_the_gateway_has_the_documents_routes_and_no_other() -> None:
    parameters = inspect.signature(RuntimeApi).parameters
    parts: Any = dict.fromkeys(parameters) | {"lease_s": 10}
    app = RuntimeApi(**parts).app()
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert served == {(method, path) for method, path, _ in operations()}


def test_each_status_of_the_gateways_code_is_documented() -> None:
    code = "".join(inspect.getsource(module) for module in (http, runtime))
    used = set(re.findall(r"(?:Refused\(|status=)(\d{3})", code))
    documented = {status for _, _, operation in operations() for status in operation["responses"]}
    assert used - documented == {"417", "500"}, "these two are `default`"


def test_the_document_refers_to_what_it_has() -> None:
    for reference in re.findall(r'\$ref: "([^"]+)"', FILE.read_text(encoding="utf-8")):
        resolved({"$ref": reference})
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


class Witness:
    """Sends requests to a gateway, and holds each answer against the document."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.seen: set[Outcome] = set()

    async def ask(self, method: str, path: str, key: str = "", **more: Any) -> httpx.Response:
        """The answer to a request of the document's path, with this key in it."""
        answer = await self.pod.call(method, path.replace("{key}", key), **more)
        self.check(method, path, answer)
        return answer

    def check(self, method: str, path: str, answer: httpx.Response) -> None:
        said = DOCUMENT["paths"][path][method.lower()]["responses"]
        status = str(answer.status_code)
        assert status in said, f"{method} {path}: {status} {answer.text}"
        self.seen.add((method, path, status))
        response = resolved(said[status])
        for name, header in response.get("headers", {}).items():
            header = resolved(header)
            value = answer.headers.get(name)
            if value is None:
                assert not header.get("required"), f"{method} {path}: {status} without {name}"
            else:
                self.validate(header["schema"], value)
        content = response.get("content")
        assert bool(content) == bool(answer.content), f"{method} {path}: {status} {answer.text}"
        if content:
            media = answer.headers["Content-Type"].split(";")[0]
            if "schema" in content[media]:
                self.validate(content[media]["schema"], answer.json())

    @staticmethod
    def validate(schema: Any, value: Any) -> None:
        Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


async def without_length() -> AsyncIterator[bytes]:
    yield b"{}"


ABOUT_EVENTS = [f"/v1/invocation/{{key}}/{word}" for word in ("entered", "heartbeat", "response", "error")]
WITH_BODY = [*ABOUT_EVENTS[2:], "/v1/init/error", "/v1/log"]
FAILURE = {"type": "ValueError", "message": "as asked"}


@pytest.mark.asyncio
async def test_the_gateway_answers_as_documented_and_in_no_other_way(pki: Any, tmp_path: Path) -> None:
    async with world(tmp_path, pki, maxmemory="8mb", poll_s=0.2) as there:
        lab = there.lab
        witness = Witness(lab.pod())
        ask = witness.ask
        # Who may ask, and where a request is wrong.
        for token, status in (("nonsense", 401), ("user/admin", 403)):
            stranger = Witness(lab.pod(token=token))
            for method, path, _ in operations():
                headers = {"Koren-Attempt": "1"}
                answer = await stranger.ask(method, path, "some", headers=headers, json={})
                assert answer.status_code == status
            witness.seen |= stranger.seen
        assert (await ask("GET", "/v1/invocation/next")).status_code == 204
        await ask("GET", "/v1/invocation/next", headers={"Koren-Started-Ms": "soon"})
        [slot] = (one for one in parameters("/v1/invocation/next", "get") if one["name"] == "Koren-Slot")
        for said, status in (("0", 204), ("31", 204), ("32", 400), ("-1", 400), ("one", 400)):
            assert (await ask("GET", "/v1/invocation/next", headers={"Koren-Slot": said})).status_code == status
            assert (re.search(slot["schema"]["pattern"], said) is not None) is (status == 204)
        for path in ABOUT_EVENTS:
            await ask("POST", path, "some", json=FAILURE)
            lost = await ask("POST", path, "some", json=FAILURE, headers={"Koren-Attempt": "1"})
            assert lost.status_code == 409
        for path in WITH_BODY:
            headers = {"Koren-Attempt": "1"}
            assert (await ask("POST", path, "some", content=b"{", headers=headers)).status_code == 400
            assert (await ask("POST", path, "some", content=without_length(), headers=headers)).status_code == 411
            huge = json.dumps({**FAILURE, "text": "x" * 2**21})
            assert (await ask("POST", path, "some", content=huge, headers=headers)).status_code == 413
        # Two events, from one end to the other.
        for subject, end, body in (("one", ABOUT_EVENTS[2], {"done": True}), ("two", ABOUT_EVENTS[3], FAILURE)):
            await lab.broker.publish(subject=subject)
            while (answer := await ask("GET", "/v1/invocation/next")).status_code == 204:
                pass
            attempt = {"Koren-Attempt": answer.headers["Koren-Attempt"]}
            key = answer.headers["Koren-Invocation-Id"]
            for path in ABOUT_EVENTS[:2]:
                await ask("POST", path, key, headers=attempt)
            assert (await ask("POST", end, key, headers=attempt, json=body)).status_code == 204
        await ask("POST", "/v1/init/error", json=FAILURE)
        await ask("POST", "/v1/log", json={"text": "[-] a line\n"})
        # State.
        state = "/v1/state/{key}"
        long = "k" * (KEY_MAX_CHARACTERS + 1)
        assert (await ask("GET", state, "a/b")).status_code == 404
        assert (await ask("PUT", state, "a/b", content=b"1", headers={"If-None-Match": "*"})).status_code == 204
        assert (await ask("PUT", state, "a/b", content=b"2", headers={"If-None-Match": "*"})).status_code == 412
        assert (await ask("GET", state, "a/b")).status_code == 200
        for method in ("GET", "PUT"):
            assert (await ask(method, state, long)).status_code == 400
        late = {"Koren-Invocation-Id": "some", "Koren-Attempt": "1"}
        assert (await ask("PUT", state, "late", content=b"1", headers=late)).status_code == 409
        assert (await ask("PUT", state, "large", content=b"x" * 65537)).status_code == 413
        assert (await ask("PUT", state, "odd", content=without_length())).status_code == 411
        for number in range(100):
            if (await ask("PUT", state, f"fill-{number}", content=b"x" * 60_000)).status_code == 507:
                break
        # The store away.
        there.redis.kill()
        for method, path, _ in operations():
            answer = await ask(method, path, "some", headers={"Koren-Attempt": "1"}, json=FAILURE | {"text": "x"})
            assert answer.status_code == 503
            kept = answer.headers.get("Koren-Lease")
            assert kept == ("kept" if path in ABOUT_EVENTS else None)
        there.redis.start()
    documented = {
        (method, path, status)
        for method, path, operation in operations()
        for status in operation["responses"]
        if status != "default"
    }
    assert documented - witness.seen == set()
