# SPDX-License-Identifier: Apache-2.0
"""`faas region`, `top` and `incident` against the console's own application, behind the centre's API server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import certifi
import httpx
import pytest
import uvicorn
from api_server import PODS, Answer, ApiServer
from argon2 import PasswordHasher
from click.testing import CliRunner, Result

import koren_console.app
from koren_console import api
from koren_console.model import Words
from koren_console.settings import Broker, RegionSettings, Settings, Text, Tls
from koren_console.simulation import Simulation
from koren_console.sources import apiserver
from koren_faas import Site
from koren_faas.cli import main

CONSOLE = "/api/v1/namespaces/koren-console/services/https:console:https/proxy"
READER = "/api/v1/namespaces/koren-console/serviceaccounts/reader/token"
RIGHTS = {("list", "incidents"), ("get", "incidents"), ("list", "regions"), ("list", "figures")}


class Server(ApiServer):
    """A region's API server with nodes; the centre's has the console behind it.

    Attributes:
        console: address of the console; empty while it does not run; None where there never was one.
        rights: what the account `reader` may do.
        ready: names of nodes to whether they are ready.
    """

    def __init__(self) -> None:
        self.console: str | None = None
        self.rights = set(RIGHTS)
        self.ready = {"cp": True, "w1": True}
        super().__init__()

    def answer(
        self, method: str, path: str, query: dict[str, str], body: Any, token: str | None
    ) -> Answer:
        if path == READER:
            if self.console is None:
                return 404, {"message": 'namespaces "koren-console" not found'}
            (audience,) = body["spec"]["audiences"]
            return 201, {"status": {"token": f"reader for {audience}"}}
        if path.startswith(CONSOLE):
            return self._through(method, path.removeprefix(CONSOLE), query, token)
        if path.endswith("/tokenreviews"):
            good = body["spec"]["token"] == f"reader for {body['spec']['audiences'][0]}"
            user = {"username": "system:serviceaccount:koren-console:reader"}
            found = {"authenticated": good, "audiences": body["spec"]["audiences"], "user": user}
            return 201, {"status": found}
        if path.endswith("/subjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            assert (asked["group"], asked["namespace"]) == ("console.koren.kr", "koren-console")
            return 201, {"status": {"allowed": (asked["verb"], asked["resource"]) in self.rights}}
        if path == "/api/v1/nodes":
            return 200, {"items": [_node(*one) for one in self.ready.items()]}
        return super().answer(method, path, query, body, token)

    def _through(self, method: str, path: str, query: dict[str, str], token: str | None) -> Answer:
        if not self.console:
            return 503, {"message": 'no endpoints available for service "console"'}
        # As the real one: the path is decoded and written anew.
        answer = httpx.request(
            method,
            f"{self.console}{quote(unquote(path))}",
            params=query,
            headers={} if token is None else {"Koren-Token": token},
        )
        return answer.status_code, answer.text


def _node(name: str, ready: bool) -> dict[str, Any]:
    said = {"type": "Ready", "status": str(ready), "message": "" if ready else "kubelet stopped"}
    status = {"conditions": [said], "nodeInfo": {"kubeletVersion": "v1.33.4"}}
    return {"metadata": {"name": name}, "status": status}


@pytest.fixture
def servers() -> Iterator[dict[str, Server]]:
    made = {name: Server() for name in ("busan", "central", "seoul")}
    yield made
    for server in made.values():
        server.close()


class Board(Simulation):
    """A site as it is at one moment: it does not live on."""

    def __init__(self, central: ApiServer, folder: Path) -> None:
        super().__init__(every_s=0)
        token = folder / "token"
        token.write_text("of the console")
        described = RegionSettings(
            name="central",
            title=Text(ko="중앙", en="Central"),
            server=central.url,
            # It is not asked over TLS: any will do.
            authority=Path(certifi.where()),
            token=token,
        )
        self.central = apiserver.ApiServer(described)

    async def run(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def board(servers: dict[str, Server], tmp_path: Path) -> Board:
    return Board(servers["central"], tmp_path)


@pytest.fixture
def console(
    live_site: Site,
    servers: dict[str, Server],
    board: Board,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """The site with its console, whose board is simulated."""
    monkeypatch.setattr(koren_console.app, "Site", lambda *_: board)
    (tmp_path / "data").mkdir()
    hash = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("only-for-tests")
    (tmp_path / "users.json").write_text(json.dumps({"viewer": {"role": "viewer", "hash": hash}}))
    none = tmp_path / "none"
    settings = Settings(
        public_url="https://console.test:30443",
        data=tmp_path / "data",
        tls=Tls(ca=none, certificate=none, key=none),
        broker=Broker(host="127.0.0.1"),
        regions=[
            RegionSettings(
                name="x", title=Text(ko="", en=""), server="", authority=none, token=none
            )
        ],
        users=tmp_path / "users.json",
    )
    app = koren_console.app.application(settings)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until
        time.sleep(0.01)
    servers["central"].console = f"http://127.0.0.1:{listening.getsockname()[1]}"
    described = json.loads((live_site.dir / "site.json").read_text())
    described["console"] = "https://console.test:30443"
    (live_site.dir / "site.json").write_text(json.dumps(described))
    yield live_site
    server.should_exit = True
    thread.join(20)
    listening.close()


def _faas(site: Site, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(site.dir), *arguments])


def _told(site: Site, *arguments: str) -> Any:
    result = _faas(site, *arguments, "-o", "json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def _table(result: Result) -> list[dict[str, str]]:
    """The last table of the output; cells of all columns but the last have no blank."""
    head, *rows = (
        line.split() for line in result.stdout.rstrip().rsplit("\n\n", 1)[-1].splitlines()
    )
    return [dict(zip(head, row, strict=False)) for row in rows]


def _held(
    server: Server, id: str, subject: str, state: str = "held", by: str | None = None
) -> None:
    server.held[id] = {
        "id": id,
        "state": state,
        "received": "2026-05-01T00:00:00Z",
        "by": by,
        "bytes": 9,
        "event": {"id": f"event-of-{id}", "subject": subject},
    }


# region ls


def test_regions_have_the_figures_of_the_console(console: Site, board: Board) -> None:
    board.cut("busan")
    board.begin("seoul")
    shown = [api.plain(one) for one in board.regions()]
    assert _told(console, "region", "ls") == shown
    result = _faas(console, "region", "ls")
    assert result.exit_code == 0
    rows = {row["NAME"]: row for row in _table(result)}
    assert {name: row["STATUS"] for name, row in rows.items()} == {
        "central": "OK",
        "seoul": "OK",
        "busan": "UNKNOWN",
    }
    seoul = next(one for one in shown if one["name"] == "seoul")
    for column, key in (("INCIDENTS", "open_incidents"), ("DEAD_LETTERS", "dead_letters")):
        assert rows["seoul"][column] == str(seoul[key]) != "0"
    assert rows["seoul"]["NODES"] == "3/3"
    assert "The link is down" in result.stdout
    assert [one["name"] for one in _told(console, "region", "ls", "--region", "seoul")] == ["seoul"]


def test_without_the_console_each_regions_own_api_server_is_asked(
    console: Site, servers: dict[str, Server]
) -> None:
    servers["central"].console = ""
    servers["seoul"].ready["w1"] = False
    for name, phase in (("a", "Running"), ("b", "Pending"), ("c", "Succeeded")):
        servers["seoul"].objects[f"{PODS}/{name}"] = {
            "metadata": {"name": name, "labels": {"faas.koren.kr/function": "hello"}},
            "status": {"phase": phase},
        }
    servers["busan"].close()
    result = _faas(console, "region", "ls")
    assert result.exit_code == 1
    rows = {row["NAME"]: row for row in _table(result)}
    assert {name: (row["STATUS"], row["NODES"], row["PODS"]) for name, row in rows.items()} == {
        "central": ("OK", "2/2", "0"),
        "seoul": ("ACT", "1/2", "2"),
        "busan": ("UNKNOWN", "-", "-"),
    }
    assert rows["seoul"]["INCIDENTS"] == rows["seoul"]["QUEUED"] == "-", "unknown, not zero"
    assert "1 of 2 nodes not ready" in result.stdout
    assert "the console does not answer: central: no endpoints available" in result.stderr
    assert "-n koren-console get pods" in result.stderr
    assert "busan: http" in result.stderr
    as_json = json.loads(_faas(console, "region", "ls", "-o", "json").stdout)
    seoul = next(one for one in as_json if one["name"] == "seoul")
    assert seoul["pods"] == 2 and seoul["queued"] is None
    assert [node["reason"] for node in seoul["nodes"]] == ["", "kubelet stopped"]


def test_both_ways_to_a_region_give_records_of_one_shape(
    console: Site, servers: dict[str, Server]
) -> None:
    by_console = _told(console, "region", "ls", "--region", "seoul")[0]
    servers["central"].console = ""
    itself = json.loads(_faas(console, "region", "ls", "--region", "seoul", "-o", "json").stdout)[0]
    assert list(itself) == list(by_console)
    assert list(itself["nodes"][0]) == list(by_console["nodes"][0])


def test_a_region_that_is_not_there_is_named(console: Site) -> None:
    for command in (("region", "ls"), ("top",), ("incident", "ls"), ("incident", "confirm", "x")):
        result = _faas(console, *command, "--region", "tokyo")
        assert result.exit_code == 1
        assert "no region tokyo; it has: busan, central, seoul" in result.stderr


# top


def test_top_has_the_figures_of_the_console(console: Site, board: Board) -> None:
    told = _told(console, "top")
    assert told["summary"].pop("as_of") is not None
    summary = board.summary()
    now = api.plain(summary)
    del now["as_of"]
    assert told["summary"] == now
    functions = [(one["region"], one["name"], one["pods"], one["p95"]) for one in told["functions"]]
    assert functions == [
        (one.region, one.name, len(one.pods), one.p95) for one in board.functions()
    ]
    result = _faas(console, "top", "--region", "busan")
    assert result.exit_code == 0
    assert f"{summary.answering} of {summary.regions} answer" in result.stdout
    assert f"{summary.open_incidents} open, {summary.waiting} held" in result.stdout
    assert "98.2% of pod-seconds" in result.stdout
    rows = _table(result)
    assert {row["REGION"] for row in rows} == {"busan"}
    assert len(rows) == sum(one.region == "busan" for one in board.functions())
    pods = [int(row["PODS"]) for row in rows]
    assert pods == sorted(pods, reverse=True)


def test_what_the_console_does_not_know_is_no_zero(console: Site, board: Board) -> None:
    for key, one in board._functions.items():
        board._functions[key] = replace(one, p95=None, queued=None, last_start=None)
    rows = _table(_faas(console, "top"))
    assert {(row["P95"], row["QUEUED"], row["LAST_START"]) for row in rows} == {("-", "-", "-")}


# incident ls, show


def test_incidents_are_those_of_the_console_the_latest_first(console: Site, board: Board) -> None:
    subject = board.begin("busan")
    told = _told(console, "incident", "ls")
    assert told[0]["subject"] == subject
    assert {one["subject"] for one in told} == {one.subject for one in board.incidents()}
    assert [one["began"] for one in told] == sorted((one["began"] for one in told), reverse=True)
    row = _table(_faas(console, "incident", "ls"))[0]
    assert (row["ID"], row["STATE"], row["REGION"]) == (subject, "open", "busan")
    held = _told(console, "incident", "ls", "--state", "held")
    assert {one["state"] for one in held} == {"held"}
    both = _told(console, "incident", "ls", "--region", "busan", "--region", "seoul")
    assert {one["region"] for one in both} == {"busan", "seoul"}
    few = _faas(console, "incident", "ls", "--limit", "2")
    assert len(_table(few)) == 2
    assert "more than 2: show them with --limit" in few.stderr


def test_an_incident_is_shown_with_what_was_posted_and_each_moment(
    console: Site, board: Board
) -> None:
    one = next(one for one in board.incidents() if one.post and one.retried)
    board._incidents[one.subject] = replace(one, place=Words("", "Gate \x1b[31m1"))
    told = _told(console, "incident", "show", one.subject)
    assert told == api.plain(board._incidents[one.subject])
    result = _faas(console, "incident", "show", one.subject)
    assert result.exit_code == 0, result.output
    assert f"https://console.test:30443{one.picture}" in result.stdout
    assert one.post in result.stdout
    assert one.text is not None
    for line in [*one.text.ko.splitlines(), *one.text.en.splitlines()]:
        assert line in result.stdout
    rows = _table(result)
    assert [row["WHAT"] for row in rows] == [
        mark.what for mark in sorted(one.marks, key=lambda mark: mark.at)
    ]
    assert rows[0]["AFTER"] == "+0.000s"
    assert "503 Service Unavailable from the social server" in result.stdout
    assert "\x1b" not in result.stdout, "what others write steers no terminal"


@pytest.mark.parametrize("subject", ["none", "a/b?c", "../regions"])
def test_an_incident_that_is_not_there_is_told_with_the_remedy(console: Site, subject: str) -> None:
    result = _faas(console, "incident", "show", subject)
    assert result.exit_code == 1
    assert f"no incident {subject}" in result.stderr
    assert "faas incident ls" in result.stderr


# What keeps the console from answering


@pytest.mark.parametrize("command", [("top",), ("incident", "ls"), ("incident", "show", "x")])
def test_a_console_that_does_not_answer_is_told_with_the_remedy(
    console: Site, servers: dict[str, Server], command: tuple[str, ...]
) -> None:
    servers["central"].console = ""
    result = _faas(console, *command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'no endpoints available for service "console"' in result.stderr
    assert f"--kubeconfig {console.kubeconfig} --context central" in result.stderr


def test_a_site_without_a_console_is_told_with_the_remedy(live_site: Site) -> None:
    result = _faas(live_site, "top")
    assert result.exit_code == 1
    assert "site test has no console: run the playbook console.yml" in result.stderr
    assert _faas(live_site, "region", "ls").stdout.splitlines()[1].startswith("busan")


def test_a_right_that_is_missing_is_named(console: Site, servers: dict[str, Server]) -> None:
    servers["central"].rights.remove(("list", "figures"))
    result = _faas(console, "top")
    assert result.exit_code == 1
    assert "the console refuses" in result.stderr
    assert "list figures.console.koren.kr" in result.stderr


# incident confirm, dismiss


@pytest.mark.parametrize(
    ("verb", "asked", "said"),
    [("confirm", "release", "released"), ("dismiss", "dismiss", "dismissed")],
)
def test_a_held_incident_is_decided_with_all_its_events(
    live_site: Site, servers: dict[str, Server], verb: str, asked: str, said: str
) -> None:
    for id, subject in (("1-0", "crash-1"), ("2-0", "crash-1"), ("3-0", "crash-2")):
        _held(servers["seoul"], id, subject)
    _held(servers["busan"], "1-0", "crash-3")
    result = _faas(live_site, "incident", verb, "crash-1", "crash-3")
    assert result.exit_code == 0, result.output
    assert servers["seoul"].asked == [f"POST /held/1-0/{asked}"]
    assert servers["busan"].asked == [f"POST /held/1-0/{asked}"]
    assert list(servers["seoul"].held) == ["3-0"]
    assert f"seoul: 2 held events of crash-1 {said}" in result.stderr
    assert f"busan: 1 held event of crash-3 {said}" in result.stderr


def test_an_incident_that_is_not_held_changes_nothing(
    live_site: Site, servers: dict[str, Server]
) -> None:
    _held(servers["seoul"], "1-0", "crash-1")
    _held(servers["seoul"], "2-0", "crash-2", "dismissed", by="kim")
    result = _faas(live_site, "incident", "confirm", "crash-1", "crash-2", "crash-9")
    assert result.exit_code == 1
    assert "crash-2 was dismissed already, by kim; crash-9 has no held event" in result.stderr
    assert "faas incident ls --state held" in result.stderr
    assert servers["seoul"].asked == []


def test_a_region_that_is_cut_off_keeps_no_other_from_its_decision(
    live_site: Site, servers: dict[str, Server]
) -> None:
    _held(servers["seoul"], "1-0", "crash-1")
    servers["busan"].close()
    lost = _faas(live_site, "incident", "dismiss", "crash-2")
    assert lost.exit_code == 1
    assert "busan: http" in lost.stderr and "no held event" not in lost.stderr
    assert _faas(live_site, "incident", "dismiss", "crash-1").exit_code == 0
    assert servers["seoul"].asked == ["POST /held/1-0/dismiss"]
