# SPDX-License-Identifier: Apache-2.0
"""faas.yaml: what it may say, and what is told of a mistake."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from koren_faas import config
from koren_faas.cli import main
from koren_faas.config import Config
from koren_faas.cron_triggers import CronTrigger
from koren_faas.errors import ConfigError
from koren_faas.http_triggers import HttpTrigger

FULL = """\
defaults:
  runtime: python3.11
  env: {LEVEL: info}
functions:
  hello:
    handler: hello.handler
    from-file: hello.py
    dependencies: requirements.txt
    packages: [libgl1]
    topic: events/{region}/+/accident
    secrets: ["sns-{region}"]
    env:
      GREETING: hello {region}
      COUNT: "3"
    egress: [none]
    memory: 512Mi
    cpu: 0.5
    tmp-size: 1Gi
    timeout: 20
    min-scale: 1
    max-scale: 3
    target: 2
    max-attempts: 4
    opens: a.detected
    closes: a.cleared
    incident-limit: 60
    regions: [seoul, busan]
    max-in-flight: 6
    rate: 10/m
    cron:
      nightly: {schedule: "0 3 * * *", timezone: Asia/Seoul, payload: {keep: 30}, starting-deadline: 600}
    delay: 30s
    priority: high
    http:
      orders: {path: /v1/orders, methods: [GET, POST], async: true, token-secret: doors}
    history: 24h
    concurrency: 8
    batch-size: 50
    batch-window: 5s
  plain:
    handler: hello.handler
    from-file: hello.py
environments:
  trial:
    defaults:
      regions: [seoul]
      env: {LEVEL: debug}
    functions:
      hello: {memory: 1Gi, cron: {nightly: {schedule: "@hourly"}, also: {schedule: "*/5 * * * *"}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text("def handler(event, context): ...\n")
    (tmp_path / "requirements.txt").touch()
    file = tmp_path / "faas.yaml"
    file.write_text(FULL)
    return file


def test_a_file_says_all_that_a_deploy_is_told(file: Path) -> None:
    entry = Config.load(file).only("hello")
    assert entry.regions == ("seoul", "busan")
    function = entry.function("seoul")
    assert function.source == file.parent / "hello.py"
    assert function.dependencies == file.parent / "requirements.txt"
    assert function.topic == "events/seoul/+/accident"
    assert function.secrets == ("sns-seoul",)
    assert function.env == {"LEVEL": "info", "GREETING": "hello seoul", "COUNT": "3"}
    assert (function.memory, function.cpu, function.tmp_size) == ("512Mi", "0.5", "1Gi")
    assert (function.timeout_s, function.incident_limit_s, function.target) == (20, 60, 2)
    assert (function.max_in_flight, function.rate) == (6, "10/m")
    assert (function.delay_s, function.priority) == (30, "high")
    assert entry.triggers() == (
        CronTrigger(
            name="nightly",
            function="hello",
            schedule="0 3 * * *",
            timezone="Asia/Seoul",
            payload={"keep": 30},
            starting_deadline_s=600,
        ),
        HttpTrigger(
            name="orders",
            function="hello",
            path="/v1/orders",
            methods=("GET", "POST"),
            is_async=True,
            token_secret="doors",
        ),
    )
    assert (function.packages, function.egress) == (("libgl1",), ("none",))


def test_the_schema_has_every_flag_of_deploy() -> None:
    command = main
    for word in ("function", "deploy"):
        assert isinstance(command, click.Group)
        command = command.commands[word]  # type: ignore[assignment]
    flags = {option.removeprefix("--") for one in command.params for option in one.opts if option[:2] == "--"}
    keys = set(config.schema()["$defs"]["function"]["properties"])
    # Region is a list here; these say how to deploy, not what.
    flags -= {"region", "secret", "dryrun", "config", "environment"}
    assert flags <= keys, flags - keys


def test_an_environment_changes_what_it_names(file: Path) -> None:
    found = Config.load(file, "trial")
    assert [entry.regions for entry in found.pick()] == [("seoul",), ("seoul",)]
    hello = found.only("hello").function("seoul")
    assert (hello.memory, hello.timeout_s, hello.concurrency, hello.history) == ("1Gi", 20, 8, "24h")
    assert (hello.batch_size, hello.batch_window_s) == (50, 5)
    assert hello.env == {"LEVEL": "debug", "GREETING": "hello seoul", "COUNT": "3"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("memory: 512Mi", "memry: 512Mi", "faas.yaml:16: functions.hello.memry: unknown key; did you mean memory?"),
        ("timeout: 20", "timeout: soon", 'faas.yaml:19: functions.hello.timeout: "soon" must be a whole number'),
        ('COUNT: "3"', "COUNT: 12:30", 'hello.env.COUNT: 750 must be a text; put it in quotes'),
        ("LEVEL: info", "NO: info", "faas.yaml:3: defaults.env.NO: YAML does not read this key as a text"),
        ("packages: [libgl1]", "packages: &all [*all]", "a part of it holds itself"),
        ("[seoul, busan]", "[]", "faas.yaml:27: functions.hello.regions: it is empty"),
        ("functions:\n  hello", "function:\n  hello", "faas.yaml:4: function: unknown key; did you mean functions?"),
        ("timeout: 20", "timeout: 20\n    timeout: 30", "20: functions.hello.timeout: is there twice, first in"),
        ("memory: 512Mi", "memory: [", "not YAML"),
        ("hello: {memory", "other: {memory", "faas.yaml:49: environments.trial.functions.other: there is no"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_key(
    file: Path, before: str, after: str, told: str
) -> None:
    assert before in FULL
    file.write_text(FULL.replace(before, after))
    with pytest.raises(ConfigError) as caught:
        Config.load(file, "trial")
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_environment_changes_triggers_by_name(file: Path) -> None:
    file.write_text(f"{FULL.rstrip()[:-1]}, http: {{orders: {{path: /trial}}}}}}\n")
    nightly, also, orders = Config.load(file, "trial").only("hello").triggers()
    assert isinstance(nightly, CronTrigger) and isinstance(also, CronTrigger) and isinstance(orders, HttpTrigger)
    assert (nightly.schedule, nightly.timezone, also.schedule) == ("@hourly", "Asia/Seoul", "*/5 * * * *")
    assert (orders.path, orders.token_secret) == ("/trial", "doors")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('schedule: "0 3', 'shedule: "0 3', "cron.nightly.shedule: unknown key; did you mean schedule?"),
        ('schedule: "0 3 * * *", ', "", "faas.yaml:30: functions.hello.cron.nightly has no schedule: add it"),
        ('"0 3 * * *"', '"0 30 * * *"', "faas.yaml:30: functions.hello.cron.nightly: trigger 'nightly': schedule is"),
        ("/v1/orders", "orders", "faas.yaml:34: functions.hello.http.orders: HTTP trigger 'orders': path is 'orders'"),
        (", token-secret: doors", "", "faas.yaml:34: functions.hello.http.orders: HTTP trigger 'orders': give either"),
        ("token-secret", "secret", "http.orders.secret: unknown key; did you mean token-secret?"),
    ],
)
def test_a_trigger_that_is_wrong_is_told_with_its_line(file: Path, before: str, after: str, told: str) -> None:
    assert before in FULL
    file.write_text(FULL.replace(before, after))
    with pytest.raises(ConfigError) as caught:
        Config.load(file).only("hello").triggers()
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("memory: 512Mi", "memory: much", "faas.yaml:16: functions.hello.memory: Wrong format"),
        ("max-scale: 3", "max-scale: 0", "faas.yaml:21: functions.hello.max-scale:"),
        ("delay: 30s", "delay: 8d", "faas.yaml:32: functions.hello.delay: delay is 8d; give 7d at most"),
        ("delay: 30s", "delay: later", "faas.yaml:32: functions.hello.delay: delay is 'later'; give a whole number"),
        ("hello.handler", "handler", "functions.hello.handler:"),
        ("runtime: python3.11", "runtime: python3.7", "faas.yaml:2: functions.hello.runtime: Invalid runtime"),
        ("events/{region}", "events/busan", "faas.yaml:10: functions.hello.topic:"),
        ("from-file: hello.py", "from-file: bye.py", "faas.yaml:7: functions.hello.from-file:"),
        ("    from-file: hello.py\n", "", "functions.hello has no from-file: add it"),
    ],
)  # fmt: skip
def test_a_value_that_no_deploy_takes_is_told_likewise(
    file: Path, before: str, after: str, told: str
) -> None:
    file.write_text(FULL.replace(before, after))
    with pytest.raises(ConfigError) as caught:
        Config.load(file).only("hello").function("seoul")
    assert told in str(caught.value)


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    file.write_text(FULL.replace("memory: 512", "memry: 512").replace("timeout: 20", "timeout: x"))
    with pytest.raises(ConfigError) as caught:
        Config.load(file)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"environment": "live"}, "has no environment live; it has: trial"),
        ({"name": "other"}, "has no function other; it has: hello, plain"),
        ({}, "has 2 functions: name one of hello, plain"),
    ],
)
def test_what_the_file_does_not_have_is_told(
    file: Path, arguments: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(file, arguments.get("environment")).only(arguments.get("name"))
    assert told in str(caught.value)


def test_a_function_of_one_region_runs_here_for_that_region(file: Path) -> None:
    file.write_text(FULL.replace("events/{region}/+", "events/seoul/+"))
    entry = Config.load(file).only("hello")
    assert entry.local().env["GREETING"] == "hello seoul"
    assert entry.local("busan").env["GREETING"] == "hello busan"
    with pytest.raises(ConfigError, match="can't match an event of busan"):
        entry.function("busan")
