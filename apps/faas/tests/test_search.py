# SPDX-License-Identifier: Apache-2.0
"""Searches in a real store, without the proxy that asks for certificates in front of it."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from koren_faas import Site
from koren_faas.cli import main
from koren_faas.search import Search, SearchError, Store, moment

PROGRAM = Path(__file__).parents[3] / ".state/bundle/victorialogs/bin/victoria-logs"
NOW = datetime.now(UTC).replace(microsecond=0)


def _line(ago_s: float, text: str, **fields: str) -> dict[str, str]:
    time = (NOW - timedelta(seconds=ago_s)).isoformat()
    return {"_time": time, "_msg": text, "region": "seoul", "host": "seoul-cp"} | fields


def _now(text: str) -> dict[str, str]:
    return {"_time": datetime.now(UTC).isoformat(), "_msg": text, "host": "follow"}


OF_POD = {"namespace": "functions", "pod": "hello-1", "function": "hello"}
LINES = [
    _line(7200, "long ago", event_id="old", subject="old"),
    _line(300, "event taken in", event_id="e-1", subject="crash-1", pod="gateway-1"),
    _line(290, "caption: (a+b)? [사고] 100%", event_id="e-1", **OF_POD),
    _line(280, "an \x1b[31maside\nof two lines", event_id="e-1", **OF_POD),
    _line(270, "sent twice", event_id="e-2", **OF_POD),
    _line(270, "sent twice", event_id="e-2", **OF_POD),
    _line(260, "unit speaks", region="busan", host="busan-gw", unit="koren-nfv.service"),
    _line(250, 'says "quoted" \\ back', subject='q" or *', event_id='i" or *'),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a site whose centre has LINES."""
    if not PROGRAM.exists():
        pytest.skip("the bundle has no victorialogs: make bundle")
    folder = tmp_path_factory.mktemp("site")
    pki = folder / "pki"
    pki.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        + ["-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", pki / "operator.key", "-out", pki / "operator.crt"],
        check=True,
        capture_output=True,
    )
    (pki / "ca.crt").write_bytes((pki / "operator.crt").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"https://localhost:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={folder / 'data'}"]
            + ["-tls", f"-tlsCertFile={pki / 'operator.crt'}", f"-tlsKeyFile={pki / 'operator.key'}"]
            + ["-retentionPeriod=2d"],
            stdout=log,
            stderr=log,
        )
    try:
        described = {"site": "s", "bundle": "b", "regions": {}, "logs": url}
        for region in ("seoul", "busan"):
            described["regions"][region] = {"context": region, "nodes": [], "registry": ""}  # type: ignore[index]
        (folder / "site.json").write_text(json.dumps(described))
        _until(lambda: _answers(url, pki / "ca.crt"))
        _add(folder, LINES)
        _until(lambda: len(_texts(folder, "--since", "3h")) == len(LINES) - 1)
        yield folder
    finally:
        process.terminate()
        process.wait(30)


def _until(condition: object, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.1)


def _answers(url: str, authority: Path) -> bool:
    context = ssl.create_default_context(cafile=authority)
    try:
        urllib.request.urlopen(f"{url}/health", context=context, timeout=5).close()
    except OSError:
        return False
    return True


def _add(folder: Path, lines: list[dict[str, str]]) -> None:
    url = json.loads((folder / "site.json").read_text())["logs"]
    request = urllib.request.Request(
        f"{url}/insert/jsonline?_stream_fields=region,host",
        "\n".join(map(json.dumps, lines)).encode(),
        {"Content-Type": "application/x-ndjson"},
    )
    context = ssl.create_default_context(cafile=folder / "pki/ca.crt")
    urllib.request.urlopen(request, context=context, timeout=10).close()


def _faas(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--site-dir", str(folder), "logs", *arguments])


def _out(folder: Path, *arguments: str) -> str:
    done = _faas(folder, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def _texts(folder: Path, *arguments: str) -> list[str]:
    return [json.loads(line)["text"] for line in _out(folder, *arguments, "-o", "json").splitlines()]


def test_a_line_says_when_and_where(store: Path) -> None:
    time = (NOW - timedelta(seconds=300)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert _out(store, "--incident", "crash-1").splitlines()[0] == (f"{time} seoul seoul-cp/gateway-1 event taken in")
    assert _out(store, "--host", "busan-gw").endswith(" busan busan-gw/koren-nfv unit speaks\n")


def test_an_incident_has_the_lines_of_its_events_the_oldest_first(store: Path) -> None:
    texts = [LINES[1]["_msg"], LINES[2]["_msg"], LINES[3]["_msg"]]
    assert _texts(store, "--incident", "crash-1") == texts
    assert _texts(store, "--event", "e-1") == texts
    assert _texts(store, "--event", "e-1", "--function", "hello") == texts[1:]


def test_what_was_sent_twice_is_shown_once(store: Path) -> None:
    assert _texts(store, "--event", "e-2") == ["sent twice"]


def test_text_is_taken_as_it_is_in_letters_of_any_case(store: Path) -> None:
    assert _texts(store, "--text", "Caption: (A+b)? [사고] 100%") == [LINES[2]["_msg"]]
    assert _texts(store, "--text", '"quoted" \\ b') == [LINES[7]["_msg"]]
    assert _texts(store, "--text", "c.ption") == []


def test_a_value_is_no_part_of_the_query(store: Path) -> None:
    assert _texts(store, "--event", 'x" or *') == []
    assert _texts(store, "--event", 'i" or *') == [LINES[7]["_msg"]]
    assert _texts(store, "--incident", 'q" or *') == [LINES[7]["_msg"]]


def test_regions_and_time_narrow_the_search(store: Path) -> None:
    assert _texts(store, "--region", "busan") == ["unit speaks"]
    assert len(_texts(store, "--region", "busan", "--region", "seoul")) == len(LINES) - 2
    assert _texts(store, "--since", "3h", "--until", "1h") == ["long ago"]
    exact = (NOW - timedelta(seconds=265)).isoformat()
    assert _texts(store, "--since", exact) == ["unit speaks", LINES[7]["_msg"]]


def test_of_too_many_lines_the_newest_are_shown_and_the_rest_is_told(store: Path) -> None:
    done = _faas(store, "--limit", "2")
    assert [line.partition("/")[2] for line in done.stdout.splitlines()] == [
        "koren-nfv unit speaks",
        '- says "quoted" \\ back',
    ]
    assert "more than 2 lines" in done.stderr


def test_what_is_printed_does_not_steer_the_terminal(store: Path) -> None:
    shown = _out(store, "--text", "aside")
    assert "\x1b" not in shown
    assert shown.splitlines()[1] == "  of two lines"


def test_following_begins_in_the_past_and_goes_on(store: Path) -> None:
    begin = NOW - timedelta(minutes=10)
    found = Store(Site.load(store), "operator").follow(Search(host="follow"), begin, 1000)
    _add(store, [_now("first")])
    assert next(found).text == "first"
    _add(store, [_now("second")])
    assert next(found).text == "second"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--since", "yesterday"], "'yesterday' is no time: give a span such as 30m"),
        (["--since", "1h", "--until", "2h"], "before --until"),
        (["--region", "jeju"], "site s has no region jeju"),
        (["--certificate", "somebody"], "somebody.crt does not exist"),
        (["--follow", "--until", "1m"], "leave out --until"),
    ],
)
def test_what_is_wrong_is_named(store: Path, arguments: list[str], named: str) -> None:
    done = _faas(store, *arguments)
    assert done.exit_code != 0
    assert named in done.stderr


def test_a_centre_that_does_not_answer_is_named(store: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    described = json.loads((store / "site.json").read_text())
    described["logs"] = f"https://localhost:{port}"
    (tmp_path / "pki").symlink_to(store / "pki")
    (tmp_path / "site.json").write_text(json.dumps(described))
    done = _faas(tmp_path)
    assert done.exit_code == 1
    assert f"the centre's logs at https://localhost:{port} can't be reached" in done.stderr
    del described["logs"]
    (tmp_path / "site.json").write_text(json.dumps(described))
    assert "names no store of logs" in _faas(tmp_path).stderr


def test_a_time_without_a_zone_is_the_local_one() -> None:
    local = datetime(2026, 5, 1, 13, 0).astimezone()
    assert moment("2026-05-01T13:00", NOW) == local
    assert moment("2d", NOW) == NOW - timedelta(days=2)
    with pytest.raises(SearchError, match="too long ago"):
        moment("9999999999d", NOW)


def test_what_others_wrote_neither_steers_a_terminal_nor_looks_like_a_line_of_its_own(store: Path) -> None:
    said = {**LINES[0], "_msg": "odd \x1b]0;OWNED\x07", "unit": "u\x1b[2J\n2026 busan busan-cp sshd x", "odd": "1"}
    _add(store, [said])
    _until(lambda: "odd " in _out(store, "--since", "3h"))
    shown = _out(store, "--since", "3h")
    assert "\x1b" not in shown and "\x07" not in shown
    assert not [line for line in shown.splitlines() if line.startswith("2026 busan")]
