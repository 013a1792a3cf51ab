# SPDX-License-Identifier: Apache-2.0
"""What the centre knows of the logs of hosts and their pods, and who may read and write them."""

from __future__ import annotations

import json
import secrets
import shlex
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

import pytest
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]
Line = dict[str, str]
SHIPPER = "koren-log-shipper"
# Writes what it gets on its standard input to the centre with the host's own certificate, and prints the status.
WRITE = """
import ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cafile="/etc/koren/pki/ca.crt")
context.load_cert_chain("/etc/koren/pki/log-shipper.crt", "/etc/koren/pki/log-shipper.key")
request = urllib.request.Request(
    f"https://central-cp:9428{sys.argv[1]}", sys.stdin.buffer.read(), {"Content-Type": "application/x-ndjson"}
)
try:
    print(urllib.request.urlopen(request, context=context, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def _ask(site: Site, path: str, certificate: str | None = "operator", **form: str) -> str:
    """The centre's answer to a client; raises HTTPError, URLError."""
    context = ssl.create_default_context(cafile=site.client_files("operator")[0])
    if certificate:
        context.load_cert_chain(*site.client_files(certificate)[1:])
    url = f"https://{site.hosts['central-cp']}:9428{path}"
    with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), context=context, timeout=20) as answer:
        return str(answer.read().decode())


def _search(site: Site, query: str) -> list[Line]:
    """The lines that a query finds, the oldest first."""
    text = _ask(site, "/select/logsql/query", query=f"{query} | sort by (_time)")
    return [json.loads(line) for line in text.splitlines()]


def _write(site: Site, host: str, path: str, lines: list[Line]) -> int:
    """The status that a host gets when it writes lines by itself."""
    body = "\n".join(json.dumps(line) for line in lines)
    told = site.run(host, f"python3 -c {shlex.quote(WRITE)} {shlex.quote(path)} <<'END'\n{body}\nEND\n")
    return int(told)


def _says(site: Site, host: str, unit: str, text: str) -> None:
    """Have a unit of the host print a line."""
    site.run(host, f"systemd-run --quiet --wait --unit={unit} echo {shlex.quote(text)}")


@pytest.fixture
def mark() -> str:
    """A word that no other line has."""
    return f"mark{secrets.token_hex(6)}"


def test_a_line_of_the_journal_is_found_with_its_host_region_and_unit(site: Site, eventually: Wait, mark: str) -> None:
    for host in ("seoul-cp", "central-cp"):
        _says(site, host, f"says-{mark}", f'{mark} 사고 "quoted"')
    said = f'_msg:="{mark} 사고 \\"quoted\\""'
    eventually(lambda: len(_search(site, said)) == 2, 20)
    found = {line["host"]: line for line in _search(site, said)}
    assert {host: line["region"] for host, line in found.items()} == {"seoul-cp": "seoul", "central-cp": "central"}
    assert found["seoul-cp"]["unit"] == f"says-{mark}.service"
    assert found["seoul-cp"]["level"] == "info"


def test_a_line_in_json_is_found_by_its_keys(site: Site, eventually: Wait, mark: str) -> None:
    said = {"message": "seen", "event_id": mark, "subject": f"of {mark}", "level": "warning", "host": "another", "n": 1}
    _says(site, "seoul-cp", f"json-{mark}", json.dumps(said))
    eventually(lambda: len(_search(site, f'event_id:="{mark}"')) == 1, 20)
    (line,) = _search(site, f'subject:="of {mark}" region:=seoul')
    assert (line["_msg"], line["level"], line["host"], line["n"]) == ("seen", "warning", "seoul-cp", "1")


def test_what_a_function_prints_is_found_by_its_event_though_the_pod_is_gone(
    site: Site, eventually: Wait, mark: str
) -> None:
    folder = "/var/log/pods/functions_report-incident-7c9d8b6f5-abcde_0123"
    line = f"$(date -u +%FT%T.%NZ) stdout F [{mark}]"
    site.run(
        "seoul-cp",
        f'mkdir -p {folder}/function; echo "{line} first" >{folder}/function/0.log; sleep 2;'
        f' echo "{line} last" >>{folder}/function/0.log; sleep 1; rm -r {folder}',
    )
    eventually(lambda: len(_search(site, f'event_id:="{mark}"')) == 2, 20)
    first, last = _search(site, f'event_id:="{mark}" function:=report-incident host:=seoul-cp')
    assert (first["_msg"], last["_msg"]) == ("first", "last")
    assert (first["namespace"], first["pod"]) == ("functions", "report-incident-7c9d8b6f5-abcde")
    assert first["container"] == "function"


def test_lines_of_a_cut_arrive_once_and_in_order(site: Site, eventually: Wait, mark: str) -> None:
    with site.cut_off("central-cp", "seoul-cp", 9428):
        loop = f"for i in $(seq 60); do echo {mark} $i; sleep 1; done"
        site.run("seoul-cp", f"systemd-run --quiet --unit=loop-{mark} sh -c {shlex.quote(loop)}")
        time.sleep(60)  # what happens is the cut
        assert _search(site, f"{mark} unit:=loop-{mark}.service") == []
    texts = [f"{mark} {number}" for number in range(1, 61)]
    found = f"_msg:{mark} unit:=loop-{mark}.service"
    eventually(lambda: {line["_msg"] for line in _search(site, found)} >= set(texts), 60)
    assert [line["_msg"] for line in _search(site, found) if line["_msg"] in texts] == texts


def test_a_shipper_that_is_killed_in_a_cut_loses_nothing(site: Site, eventually: Wait, mark: str) -> None:
    with site.cut_off("central-cp", "seoul-cp", 9428):
        for number in range(4):
            _says(site, "seoul-cp", f"killed-{mark}-{number}", f"{mark} {number}")
            site.run("seoul-cp", f"systemctl kill --signal=KILL {SHIPPER}")
            eventually(lambda: site.run("seoul-cp", f"systemctl is-active {SHIPPER}", check=False) == "active\n", 20)
    wanted = {f"{mark} {number}" for number in range(4)}
    eventually(lambda: {line["_msg"] for line in _search(site, mark)} >= wanted, 60)


def test_a_store_without_room_takes_nothing_in_and_nothing_is_lost(site: Site, eventually: Wait, mark: str) -> None:
    unit = "/etc/systemd/system/koren-logs.service"
    site.run("central-cp", f"cp {unit} /tmp/koren-logs.service")
    again = "systemctl daemon-reload && systemctl restart koren-logs"
    full = "sed -i 's/minFreeDiskSpaceBytes=[^ ]*/minFreeDiskSpaceBytes=900TiB/'"

    def answers() -> bool:
        try:
            return _ask(site, "/health") == "OK"
        except OSError:
            return False

    try:
        site.run("central-cp", f"{full} {unit} && {again}")
        eventually(answers, 20)
        _says(site, "seoul-cp", f"full-{mark}", mark)
        refused = f"journalctl --unit={SHIPPER} --since=-60s | grep -c \"status_code='429'\""
        eventually(lambda: int(site.run("seoul-cp", refused, check=False) or 0) > 0, 30)
        assert _search(site, f"unit:=full-{mark}.service") == []
    finally:
        site.run("central-cp", f"mv /tmp/koren-logs.service {unit} && {again}")
    eventually(answers, 20)
    eventually(lambda: mark in {line["_msg"] for line in _search(site, mark)}, 60)


def test_the_oldest_days_go_when_the_store_is_over_its_size(site: Site, eventually: Wait, mark: str) -> None:
    for back in range(7, 1, -1):
        at = time.time() - back * 86400
        for part in range(5):
            # Short enough for a command line.
            texts = [f"{mark} {secrets.token_hex(1000)}" for _ in range(40)]
            lines = [{"_time": f"{at + part + n / 100:.3f}", "_msg": text} for n, text in enumerate(texts)]
            assert _write(site, "seoul-cp", "/insert/jsonline", lines) == 200

    def days() -> int:
        text = _ask(site, "/select/logsql/query", query=f"_time:9d {mark} | stats by (_time:1d) count() n")
        return len(text.splitlines())

    # Once this is found, all before it was, unless it has gone already.
    assert (
        _write(site, "seoul-cp", "/insert/jsonline", [{"_time": f"{time.time():.3f}", "_msg": f"{mark} last"}]) == 200
    )
    eventually(lambda: len(_search(site, f'_msg:="{mark} last"')) == 1, 30)
    eventually(lambda: 1 <= days() < 7, 60)
    used = site.run("central-cp", "du --summarize --block-size=1 /var/lib/koren-logs").split()[0]
    # What is kept anyway, of today and yesterday, is beside it.
    assert int(used) < 16 * 2**20
    assert _search(site, "host:=seoul-cp _time:1h | limit 1")


def test_a_host_writes_as_itself_only(site: Site, eventually: Wait, mark: str) -> None:
    line = {"_time": str(time.time()), "_msg": mark, "region": "busan", "host": "busan-cp"}
    assert _write(site, "seoul-cp", "/insert/jsonline", [line]) == 200
    eventually(lambda: len(_search(site, f"_msg:={mark}")) == 1, 20)
    (found,) = _search(site, f"_msg:={mark}")
    assert (found["region"], found["host"]) == ("seoul", "seoul-cp")
    assert _write(site, "seoul-cp", "/insert/jsonline?extra_fields=host=busan-cp", [line]) == 200
    eventually(lambda: len(_search(site, f"_msg:={mark}")) == 2, 20)
    assert {line["host"] for line in _search(site, f"_msg:={mark}")} == {"seoul-cp"}


@pytest.mark.parametrize(
    ("path", "certificate"),
    [
        ("/select/logsql/query", None),
        ("/select/logsql/query", "detector"),
        ("/metrics", "detector"),
        ("/insert/jsonline", "operator"),
        ("/insert/jsonline", "gateway.seoul"),
    ],
)
def test_who_is_not_named_is_refused(site: Site, path: str, certificate: str | None) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _ask(site, path, certificate, query="*")
    assert refused.value.code == 403


def test_a_host_reads_nothing_and_no_other_way_in_is_open(site: Site) -> None:
    assert _write(site, "seoul-cp", "/select/logsql/query?query=*", []) == 403
    for path in ("/insert/journald/upload", "/insert/elasticsearch/_bulk", "/internal/insert", "/internal/force_merge"):
        assert _write(site, "seoul-cp", path, []) == 404, path


def test_the_store_itself_answers_its_own_host_alone(site: Site) -> None:
    listening = site.run("central-cp", "ss -Hltn 'sport = 9427 or sport = 9428'")
    local = {line.split()[3] for line in listening.splitlines()}
    assert local == {"127.0.0.1:9427", f"{site.hosts['central-cp']}:9428"}


def test_the_journal_is_kept_on_disk_and_bounded(site: Site) -> None:
    site.run("seoul-cp", "test -d /var/log/journal/$(cat /etc/machine-id)")
    assert "SystemMaxUse=256M" in site.run("seoul-cp", "systemd-analyze cat-config systemd/journald.conf")
