# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a region's API server: it keeps objects, and has a gateway and pods behind it."""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

PODS = "/api/v1/namespaces/functions/pods"
GATEWAY_PODS = "/api/v1/namespaces/koren-faas/pods"
GATEWAY = "/api/v1/namespaces/koren-faas/services/https:gateway:functions/proxy/v1"
_CONFIGMAPS = "/api/v1/namespaces/functions/configmaps"
_DEPLOYMENTS = "/apis/apps/v1/namespaces/functions/deployments"
_EVENTS = "/api/v1/namespaces/functions/events"
_PAUSED = "faas.koren.kr/paused"
_TOKEN = "token-of-faas-caller"

Answer = tuple[int, Any]


class ApiServer:
    """One region's API server.

    Attributes:
        objects: path to object.
        letters: dead letters of the gateway behind it, by id.
        held: held events of that gateway, by id.
        handled: what the functions of that gateway have handled, as it tells it; None when none keeps a history.
        replays: bodies of the replays that it was asked for.
        replay_lost: whether its answer to a replay that is no dry run gets lost.
        kept: what that gateway keeps of pods' output; None is one that has no such API.
        refused: Deployments that it refuses; None when it does not answer.
        source_problem: why that gateway refuses every source; None when it listens to all.
        trigger_problem: why that gateway refuses every trigger that is a ConfigMap.
        metrics: what that gateway's pod tells Prometheus.
        leaving: path of an object that is being deleted to how often it is still seen.
        watched: events for who watches pods; None ends the watch.
        output: pod name to lines of its output, for who reads logs.
        events: Kubernetes' events.
        deployed_to: whether a function was ever deployed, which makes who asks the gateway.
        asked: requests that changed something, in order.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.letters: dict[str, dict[str, Any]] = {}
        self.held: dict[str, dict[str, Any]] = {}
        self.handled: list[dict[str, Any]] | None = []
        self.replays: list[dict[str, Any]] = []
        self.replay_lost = False
        self.kept: list[dict[str, Any]] | None = []
        self.refused: list[dict[str, Any]] | None = []
        self.source_problem: str | None = None
        self.trigger_problem: str | None = None
        self.events: list[dict[str, Any]] = []
        self.leaving: dict[str, int] = {}
        self.metrics = ""
        self.watched: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.output: dict[str, list[str]] = {}
        self.deployed_to = True
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                url = urlsplit(self.path)
                query = dict(parse_qsl(url.query))
                token = self.headers.get("Koren-Token")
                status, content = outer.answer(self.command, url.path, query, body, token)
                self.send_response(status)
                self.send_header("Connection", "close")
                if not isinstance(content, Iterator):
                    text = content if isinstance(content, str) else json.dumps(content)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                    return
                # In chunks, as the real one does: a line is to be read when it comes.
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for part in itertools.chain(content, [""]):
                    self.wfile.write(f"{len(part):x}\r\n{part}\r\n".encode())
                    self.wfile.flush()

            do_GET = do_POST = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        # Who watches still asks again now, and nobody answers.
        self.watched.put(None)

    def answer(
        self, method: str, path: str, query: dict[str, str], body: Any, token: str | None
    ) -> Answer:
        """Status and content of the answer to a request."""
        if path.startswith(GATEWAY):
            if token != _TOKEN:
                return 401, {"error": "no valid token"}
            path = unquote(path.removeprefix(GATEWAY))
            if path.endswith(("/history", "/replay")):
                return self._history(method, query, body)
            return self._gateway(method, path, query)
        if path.endswith("/serviceaccounts/faas-caller/token"):
            if self.deployed_to or path.removesuffix("/token") in self.objects:
                return 201, {"status": {"token": _TOKEN}}
            return 404, {"message": 'serviceaccounts "faas-caller" not found'}
        if path == PODS and "watch" in query:
            return 200, (json.dumps(event) + "\n" for event in iter(self.watched.get, None))
        if path.startswith(f"{PODS}/") and path.endswith("/log"):
            return 200, iter(self.output[path.split("/")[-2]])
        if path.startswith(f"{GATEWAY_PODS}/"):
            return 200, self.metrics
        if path == GATEWAY_PODS:
            running = {"metadata": {"name": "gateway-1"}, "status": {"phase": "Running"}}
            return 200, {"items": [running]}
        if path == _EVENTS:
            return 200, {"items": self.events}
        if path in (PODS, _DEPLOYMENTS, _CONFIGMAPS):
            inside = [one for at, one in self.objects.items() if at.startswith(f"{path}/")]
            return 200, {"items": [one for one in inside if _selected(one, query)]}
        return self._object(method, path, query, body)

    def _object(self, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
        if path in self.leaving:
            self.leaving[path] -= 1
            if self.leaving[path] < 0:
                del self.leaving[path], self.objects[path]
        before = self.objects.get(path)
        if method == "PATCH":
            # Only what others are owned by needs one here.
            uid = {"uid": f"uid of {path}"} if body["kind"] == "ConfigMap" else {}
            after = {**body, "metadata": {**uid, **body["metadata"]}}
            if query["fieldManager"] == "faas-pause":
                assert before is not None
                after = _marked(before, body)
            elif query["fieldManager"] != "faas":
                after = before or after
            elif before and "replicas" in before.get("spec", {}):
                # They have an owner of their own.
                after["spec"] = {"replicas": before["spec"]["replicas"], **body["spec"]}
            elif before is not None:
                after = _marked(after, before)
            if after["kind"] == "ScaledObject":
                after["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
            if "dryRun" not in query:
                self.objects[path] = after
                if after != before:
                    self.asked.append(f"PATCH {path.split('/')[-2]}")
            return 200, after
        if before is None:
            return 404, {"message": "not found"}
        if method == "DELETE" and path.split("/")[-2] in ("configmaps", "roles", "rolebindings"):
            del self.objects[path]
            self.asked.append(f"DELETE {path.split('/')[-2]}")
        return 200, before

    def _sources(self) -> Iterator[dict[str, Any]]:
        for path, declared in self.objects.items():
            if path.startswith(f"{_CONFIGMAPS}/mqtt-source-"):
                yield _source(declared, self.source_problem)

    def _triggers(self) -> Iterator[dict[str, Any]]:
        for path, declared in self.objects.items():
            notes = declared["metadata"].get("annotations", {})
            if path.startswith(f"{_CONFIGMAPS}/trigger-"):
                name, data = declared["metadata"]["labels"]["faas.koren.kr/trigger"], declared["data"]
                more = {"paused": data.get("paused") == "true", "delay_s": int(data.get("delay-s", "0"))}
                yield {"name": name, "problem": self.trigger_problem, **data, **more}
            elif path.startswith(_DEPLOYMENTS) and "faas.koren.kr/topic" in notes:
                name = notes.get("faas.koren.kr/trigger", declared["metadata"]["name"])
                yield {"name": name, "problem": None, "paused": notes.get(_PAUSED) == "true"}

    def _history(self, method: str, query: dict[str, str], body: Any) -> Answer:
        if self.handled is None:
            return 409, {"error": "hello keeps no history; faas function update hello --history 24h"}
        if method == "GET":
            shown = [one for one in self.handled if query.get("since", "") <= one["time"] <= query.get("until", "z")]
            return 200, _page(shown, "events", query)
        repeat = any(not one["dry_run"] and one["request"] == body["request"] for one in self.replays)
        self.replays.append(body)
        if self.replay_lost and not body["dry_run"]:
            return 502, {"error": "the answer was lost"}
        shown = [one for one in self.handled if body["since"] <= one["time"] <= body["until"]]
        return 202, {"events": len(shown), "repeat": repeat}

    def _gateway(self, method: str, path: str, query: dict[str, str]) -> Answer:
        if path == "/functions":
            if self.refused is None:
                return 503, {"error": "no endpoints available"}
            return 200, {"region": "here", "functions": [], "refused": self.refused}
        if path in ("/triggers", "/http-triggers"):
            return 200, {"region": "here", "triggers": [*self._triggers()]}
        if path == "/sources":
            return 200, {"region": "here", "sources": [*self._sources()]}
        if path.endswith("/log") and self.kept is not None:
            return 200, {"region": "here", "log": self.kept}
        if path == "/dead-letters":
            wanted = query.get("function")
            shown = [one for one in self.letters.values() if wanted in (None, one["function"])]
            return 200, _page(shown, "dead_letters", query)
        if path == "/held":
            return 200, _page(list(self.held.values()), "held", query)
        place, id, verb = [*path.split("/", 2)[1:], ""][:3]
        for ending in ("/redrive", "/release", "/dismiss"):
            if id.endswith(ending):
                id, verb = id.removesuffix(ending), ending[1:]
        kept = {"dead-letters": self.letters, "held": self.held}.get(place, {})
        if id not in kept:
            return 404, {"error": f"there is no {path}"}
        if method == "GET":
            return 200, kept[id]
        self.asked.append(f"{method} {path}")
        if place == "dead-letters":
            del kept[id]
            return 202, {}
        if kept[id]["state"] != "held":
            return 409, {"error": f"{id} is not held any more"}
        subject = kept[id]["event"]["subject"]
        same = [key for key, one in kept.items() if one["event"]["subject"] == subject]
        events = [kept.pop(key)["event"]["id"] for key in same]
        done = {"release": "released", "dismiss": "dismissed"}[verb]
        return 202, {done: events, "subject": subject}


def _source(declared: dict[str, Any], problem: str | None) -> dict[str, Any]:
    """What a gateway tells of a source."""
    its = {"name": declared["metadata"]["labels"]["faas.koren.kr/mqtt-source"]}
    return {**its, "topic": declared["data"]["topic"], "subscribed": problem is None, "problem": problem}


def _marked(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """An object with another's mark of a pause, or without one if that has none."""
    made = {**one, "metadata": dict(one["metadata"])}
    for holder, key in ((made, "data"), (made["metadata"], "annotations")):
        theirs = (other if key == "data" else other["metadata"]).get(key, {})
        mark = "paused" if key == "data" else _PAUSED
        if key in holder:
            holder[key] = {name: value for name, value in holder[key].items() if name != mark}
            holder[key] |= {mark: theirs[mark]} if mark in theirs else {}
    return made


def _selected(one: dict[str, Any], query: dict[str, str]) -> bool:
    label, equals, value = query["labelSelector"].partition("=")
    has = one["metadata"].get("labels", {})
    return label in has and (not equals or has[label] == value)


def _page(content: list[dict[str, Any]], key: str, query: dict[str, str]) -> dict[str, Any]:
    """A page as the gateway gives it; its cursor is a number here."""
    limit, begin = int(query.get("limit", "100")), int(query.get("after", "0"))
    assert 1 <= limit <= 1000
    shown = [
        {name: value for name, value in one.items() if name != "message"}
        for one in content[begin : begin + limit]
    ]
    following = str(begin + limit) if begin + limit < len(content) else None
    return {"region": "here", key: shown, "next": following}
