# SPDX-License-Identifier: Apache-2.0
"""The centre's services as the console asks them: real Prometheus, Alertmanager and VictoriaLogs of the bundle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml
from gateway_lab import free_port, until

from koren_console.alerts import Alerts
from koren_console.history import History
from koren_console.sources import queries
from koren_console.sources.alertmanager import Alertmanager
from koren_console.sources.figures import GROUPS, Collector, Figures
from koren_console.sources.http import SourceDown
from koren_console.sources.logs import Logs, query_of
from koren_console.sources.prometheus import Prometheus

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = ROOT / ".state/bundle"
PROMETHEUS = BUNDLE / "prometheus/bin/prometheus"
PROMTOOL = BUNDLE / "prometheus/bin/promtool"
VICTORIALOGS = BUNDLE / "victorialogs/bin/victoria-logs"
ALERTMANAGER = sorted(BUNDLE.glob("apt/*/prometheus-alertmanager_*.deb"))


def needs(*programs: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not all(one.is_file() for one in programs), reason="the bundle is not built")


@contextmanager
def running(log: Path, *command: str | Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def answers(address: str) -> None:
    async with httpx.AsyncClient() as http:

        async def ready() -> bool:
            try:
                return (await http.get(address)).is_success
            except httpx.TransportError:
                return False

        await until(ready, f"{address} answers", 60)


def all_queries() -> dict[str, str]:
    """Every query, as Prometheus gets it."""
    found = {f"{group}-{name}": query for group, asked in GROUPS.items() for name, query in asked.items()}
    found |= {f"savings-{name}": query.replace("%s", "3600s") for name, query in queries.SAVINGS.items()}
    for name, lines in queries.CHARTS.items():
        for title, chart in lines.items():
            for selector in ("", queries.selector("seoul", 'f"\\')):
                found[f"chart-{name}-{title}-{bool(selector)}"] = chart.query.replace("%s", selector).replace(",}", "}")
    return found


def test_every_series_is_one_that_is_collected() -> None:
    kept = yaml.safe_load((ROOT / "roles/vmagent/vars/main.yml").read_text())["__vmagent_kept"]
    expressions = [expression for names in kept.values() for expression in names]
    text = re.sub(r'"[^"]*"', "", " ".join(all_queries().values()))
    names = set(re.findall(r"\b(?:koren|node|mosquitto)_\w+", text))
    assert len(names) > 15
    missing = {name for name in names if not any(re.fullmatch(expression, name) for expression in expressions)}
    assert not missing


@needs(PROMTOOL)
def test_every_query_is_one_that_prometheus_reads(tmp_path: Path) -> None:
    rules = [{"record": f"r:{number}", "expr": query} for number, query in enumerate(all_queries().values())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "console", "rules": rules}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def samples(now: int) -> str:
    """Two hours of a site, a line each 15 seconds, with a gap of ten minutes that ended half an hour ago."""
    lines = ["# TYPE koren_function_pods gauge", "# TYPE koren_function_pod_seconds counter"]
    body: dict[str, list[str]] = {"pods": [], "seconds": [], "events": [], "phase": [], "up": [], "dead": []}
    used = 0.0
    for number, at in enumerate(range(now - 7200, now, 15)):
        if now - 2400 <= at < now - 1800:
            continue
        pods = 1 if now - 900 <= at else 0
        used += 15 * pods
        where = 'region="seoul",function="f"'
        body["pods"].append(f'koren_function_pods{{{where},phase="Running"}} {pods} {at}')
        body["seconds"].append(f"koren_function_pod_seconds_total{{{where}}} {used} {at}")
        body["events"].append(f'koren_gateway_invocations_total{{{where},outcome="succeeded"}} {number} {at}')
        for le, share in (("0.5", 0), ("1.0", 1), ("+Inf", 1)):
            labels = f'{where},phase="handler_entered",start="zero",le="{le}"'
            body["phase"].append(f"koren_gateway_phase_seconds_bucket{{{labels}}} {number * share} {at}")
        body["up"].append(f'up{{region="seoul",instance="seoul-cp",job="node"}} 1 {at}')
        for replica in ("gateway-0", "gateway-1"):
            body["dead"].append(f'koren_gateway_dead_letters{{region="seoul",instance="{replica}"}} 3 {at}')
    types = {"seconds": "counter", "events": "counter"}
    lines = []
    for name, rows in body.items():
        metric = rows[0].split("{")[0]
        if name in types:
            lines.append(f"# TYPE {metric.removesuffix('_total')} counter")
        lines += sorted(rows, key=lambda row: row.rsplit(" ", 2)[0])
    return "\n".join([*lines, "# EOF", ""])


@pytest_asyncio.fixture
async def prometheus(tmp_path: Path) -> AsyncIterator[Prometheus]:
    now = int(datetime.now(UTC).timestamp())
    (tmp_path / "samples").write_text(samples(now))
    data = tmp_path / "data"
    tool = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", tmp_path / "samples", data]
    done = subprocess.run(tool, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "prometheus.yml").write_text("{}")
    port = free_port()
    arguments = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={data}")
    with running(tmp_path / "log", PROMETHEUS, *arguments, f"--web.listen-address=127.0.0.1:{port}"):
        await answers(f"http://127.0.0.1:{port}/-/ready")
        async with httpx.AsyncClient() as http:
            yield Prometheus(f"http://127.0.0.1:{port}", http)


@needs(PROMETHEUS, PROMTOOL)
@pytest.mark.asyncio
async def test_figures_come_from_prometheus(prometheus: Prometheus) -> None:
    figures, told = Figures(), []
    await Collector(prometheus, figures, lambda: told.append(1)).once()
    assert told == [1] and figures.as_of is not None
    assert [one.value for one in figures.in_region("region", "dead_letters", "seoul")] == [3], "not once a replica"
    assert figures.in_region("region", "dead_letters", "busan") == []
    assert figures.by("host", "up", "region", "instance") == {("seoul", "seoul-cp"): 1}
    assert figures.by("function", "per_minute", "function")[("f",)] == pytest.approx(4, rel=0.1)
    p95 = figures.summary("p95_from_zero")
    assert p95 is not None and 0.9 < p95 <= 1.0
    assert figures.summary("lost") is None, "unknown is not zero"
    saved = figures.summary("saved")
    # A quarter of an hour of two hours, less the gap.
    assert saved is not None and saved == pytest.approx(1 - 15 / 110, abs=0.1)


@needs(PROMETHEUS, PROMTOOL)
@pytest.mark.asyncio
async def test_a_chart_shows_gaps_as_gaps(prometheus: Prometheus) -> None:
    [pods] = await prometheus.series("pods", "seoul", "f", timedelta(hours=2))
    assert pods.unit == "pods" and len(pods.times) == len(pods.values) <= 362
    assert pods.values[-1] == 1 and 0 in pods.values and None in pods.values
    assert pods.times == sorted(pods.times)
    [p95, p50] = await prometheus.series("p95", "", "", timedelta(hours=1))
    assert p95.objective == 2.0 and p50.objective is None
    [nothing] = await prometheus.series("pods", "busan", "f", timedelta(hours=1))
    assert set(nothing.values) == {None}


@needs(PROMETHEUS, PROMTOOL)
@pytest.mark.asyncio
async def test_savings_are_seconds_by_function(prometheus: Prometheus) -> None:
    [one] = await prometheus.savings(timedelta(hours=1))
    assert (one.region, one.function) == ("seoul", "f")
    assert one.used == pytest.approx(900, rel=0.1)
    assert one.always_on == pytest.approx(3000, rel=0.15)


@needs(PROMETHEUS, PROMTOOL)
@pytest.mark.asyncio
async def test_a_query_that_is_refused_is_told_from_a_server_that_is_down(prometheus: Prometheus) -> None:
    with pytest.raises(SourceDown) as refused:
        await prometheus.now("sum by (")
    assert refused.value.status == 400
    prometheus._base = "http://127.0.0.1:1"
    with pytest.raises(SourceDown) as down:
        await prometheus.now("up")
    assert down.value.status is None


@contextlib.asynccontextmanager
async def running_alertmanager(tmp_path: Path) -> AsyncIterator[tuple[Alertmanager, httpx.AsyncClient]]:
    """Debian's, in which a region that can't be reached mutes its other alerts, and a client of its address."""
    subprocess.run(["dpkg-deb", "--extract", ALERTMANAGER[-1], tmp_path / "root"], check=True)
    (tmp_path / "config.yml").write_text(
        json.dumps(
            {
                "route": {"receiver": "nobody"},
                "receivers": [{"name": "nobody"}],
                "inhibit_rules": [
                    {
                        "source_matchers": ['alertname="RegionUnreachable"'],
                        "target_matchers": ['alertname!="RegionUnreachable"'],
                        "equal": ["region"],
                    }
                ],
            }
        )
    )
    port = free_port()
    program = tmp_path / "root/usr/bin/prometheus-alertmanager"
    arguments = (f"--config.file={tmp_path}/config.yml", f"--storage.path={tmp_path}/data", "--cluster.listen-address=")
    # Debian's reads its templates from where its package puts them: the package's files are there for it alone.
    space = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    inside = [*space, "sh", "-c", 'mount --bind "$0" /usr/share && exec "$@"', tmp_path / "root/usr/share"]
    with running(tmp_path / "log", *inside, program, *arguments, f"--web.listen-address=127.0.0.1:{port}"):
        base = f"http://127.0.0.1:{port}"
        await answers(f"{base}/-/ready")
        async with httpx.AsyncClient(base_url=base) as http:
            yield Alertmanager(base, http), http


@pytest.mark.skipif(not ALERTMANAGER, reason="the bundle is not built")
@pytest.mark.asyncio
async def test_alerts_are_shown_silenced_and_heard_again(tmp_path: Path) -> None:
    async with running_alertmanager(tmp_path) as (alertmanager, http):
        now = datetime.now(UTC)
        rings = [
            {
                "labels": {"alertname": name, "region": region, "severity": severity},
                "annotations": {"summary": f"{name} rings", "runbook": runbook},
                "startsAt": (now - timedelta(minutes=minutes)).isoformat(),
            }
            for name, region, severity, minutes, runbook in (
                ("BridgeDown", "seoul", "warning", 1, "https://docs.test/runbooks.md#bridgedown"),
                ("RegionUnreachable", "busan", "critical", 5, "javascript:alert(1)"),
                ("NodeNotReady", "busan", "critical", 2, ""),
                ("Watchdog", "central", "none", 9, ""),
            )
        ]
        answer = await http.post("/api/v2/alerts", json=rings)
        assert answer.is_success, answer.text

        async def inhibited() -> bool:
            return any(one.inhibited for one in await alertmanager.alerts())

        await until(inhibited, "one mutes the other")
        found = {one.name: one for one in await alertmanager.alerts()}
        assert [one.name for one in await alertmanager.alerts()] == [
            "NodeNotReady",
            "RegionUnreachable",
            "BridgeDown",
        ]
        assert found["NodeNotReady"].inhibited and not found["RegionUnreachable"].inhibited
        assert found["RegionUnreachable"].runbook == "", "only a web address becomes a link"
        bridge = found["BridgeDown"]
        assert bridge.summary == "BridgeDown rings" and bridge.runbook.startswith("https://docs.test/")
        await alertmanager.silence(bridge.labels, timedelta(hours=1), "being replaced", "kim")

        async def silenced() -> bool:
            [one] = [one for one in await alertmanager.alerts() if one.name == "BridgeDown"]
            return one.silenced_by == "kim" and one.silenced_until is not None

        await until(silenced, "it is silenced")
        assert await alertmanager.unsilence(bridge.fingerprint) == 1

        async def heard() -> bool:
            return not await silenced()

        await until(heard, "it is heard again")
        assert await alertmanager.unsilence("made-up") == 0
    async with httpx.AsyncClient() as client:
        with pytest.raises(SourceDown):
            await Alertmanager(str(http.base_url), client).alerts()


@pytest.mark.skipif(not ALERTMANAGER, reason="the bundle is not built")
@pytest.mark.asyncio
async def test_an_alert_that_ended_is_kept_with_its_times_over_restarts(tmp_path: Path) -> None:
    changes: list[datetime | None] = []
    began = (datetime.now(UTC) - timedelta(minutes=5)).replace(microsecond=0)
    async with running_alertmanager(tmp_path) as (alertmanager, http):

        async def say(name: str, *, over: bool = False) -> None:
            one = {"labels": {"alertname": name, "region": "seoul"}, "startsAt": began.isoformat()}
            end = {"endsAt": datetime.now(UTC).isoformat()} if over else {}
            answer = await http.post("/api/v2/alerts", json=[{**one, **end}])
            assert answer.is_success, answer.text

        async def rings(alerts: Alerts, *names: str) -> None:
            async def those() -> bool:
                await alerts.refresh()
                return sorted(one.name for one in alerts.ringing) == sorted(names)

            await until(those, f"{names} ring")

        history = History(tmp_path, days=30, megabytes=16)
        alerts = Alerts(alertmanager, history, lambda: changes.append(alerts.as_of))
        await say("BridgeDown")
        await say("QueueGrowing")
        await rings(alerts, "BridgeDown", "QueueGrowing")
        assert await alerts.past(10) == []
        await say("BridgeDown", over=True)
        await rings(alerts, "QueueGrowing")
        [past] = await alerts.past(10)
        assert (past.alert.name, past.alert.labels["region"], past.alert.since) == ("BridgeDown", "seoul", began)
        assert changes[-1] is not None
        assert past.lasted == pytest.approx((changes[-1] - began).total_seconds(), abs=0.001)
        history.close()

        # The console does not run while one ends.
        await say("QueueGrowing", over=True)
        history = History(tmp_path, days=30, megabytes=16)
        alerts = Alerts(alertmanager, history, lambda: changes.append(alerts.as_of))
        assert [one.alert.name for one in await alerts.past(10)] == ["BridgeDown"], "the other one may ring still"
        await rings(alerts)
        found = {one.alert.name: one.lasted for one in await alerts.past(10)}
        assert found == {"BridgeDown": pytest.approx(past.lasted, abs=0.001), "QueueGrowing": None}
        assert len(await alerts.past(1)) == 1
        history.close()


@needs(VICTORIALOGS)
@pytest.mark.asyncio
async def test_lines_are_found_by_event_incident_function_host_and_text(tmp_path: Path) -> None:
    port = free_port()
    command = (VICTORIALOGS, f"-storageDataPath={tmp_path}/data", f"-httpListenAddr=127.0.0.1:{port}")
    with running(tmp_path / "log", *command):
        base = f"http://127.0.0.1:{port}"
        await answers(f"{base}/health")
        now = datetime.now(UTC)
        lines = [
            {"_time": (now - timedelta(seconds=60 - number)).isoformat(), "host": host, "region": "seoul", **fields}
            for number, (host, fields) in enumerate(
                [
                    ("seoul-cp", {"_msg": "event taken in", "event_id": "e-1", "subject": "i-1", "unit": "x.service"}),
                    ("seoul-w1", {"_msg": "RateLimited: 429", "event_id": "e-1", "function": "f", "level": "error"}
                     | {"namespace": "functions", "pod": "f-1"}),
                    ("seoul-w1", {"_msg": "no subject here", "event_id": "e-2", "function": "f"}),
                    ("busan-cp", {"_msg": 'odd "quoted" \\ text 사고', "event_id": 'x" or *', "subject": "i-10"}),
                ]
            )
        ]  # fmt: skip
        async with httpx.AsyncClient() as http:
            answer = await http.post(
                f"{base}/insert/jsonline",
                params={"_stream_fields": "host", "_time_field": "_time", "_msg_field": "_msg"},
                content="\n".join(map(json.dumps, lines)),
            )
            assert answer.is_success, answer.text
            logs = Logs(base, http)
            span = (now - timedelta(hours=1), now + timedelta(minutes=1))

            async def texts(text: str = "", limit: int = 100, events: tuple[str, ...] = (), **wanted: str) -> list[str]:
                return [one.text for one in await logs.find(wanted, text, *span, limit, events)]

            async def there() -> bool:
                return len(await texts()) == 4

            await until(there, "all lines are there")
            assert await texts(event_id="e-1") == ["event taken in", "RateLimited: 429"]
            assert await texts(subject="i-1") == ["event taken in"], "not i-10"
            assert await texts(subject="i-1", events=("e-1", "e-2")) == [
                "event taken in",
                "RateLimited: 429",
                "no subject here",
            ]
            assert await texts(function="f", host="seoul-w1") == ["RateLimited: 429", "no subject here"]
            assert await texts("ratelimited") == ["RateLimited: 429"]
            assert await texts('"subject here"') == ["no subject here"]
            assert await texts("사고") == ['odd "quoted" \\ text 사고']
            assert await texts(event_id='x" or *') == ['odd "quoted" \\ text 사고'], "a value is a value"
            assert await texts(subject='🚗" or *') == [], "also beside what Go takes for no text"
            assert await texts("") == [one["_msg"] for one in lines], "oldest first"
            assert await texts(limit=1) == [lines[-1]["_msg"]], "the latest ones"
            [line] = await logs.find({"event_id": "e-1", "host": "seoul-w1"}, "", *span, 10)
            assert (line.unit, line.level, line.function, line.region) == ("functions/f-1", "error", "f", "seoul")
    async with httpx.AsyncClient() as http:
        with pytest.raises(SourceDown):
            await Logs(base, http).find({}, "", *span, 10)


def test_a_query_for_logs_quotes_what_people_type() -> None:
    assert query_of({}, "") == "*"
    assert query_of({"subject": "🚗"}, "사고🚗") == 'subject:="🚗" i("사고🚗")', "Go unquotes no surrogate pairs"
    assert query_of({"event_id": "a", "unknown": "b"}, "") == 'event_id:="a"'
    assert query_of({}, '| delete "two words" "') == 'i("|") i("delete") i("two words") i("\\"")'
