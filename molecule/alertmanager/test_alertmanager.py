# SPDX-License-Identifier: Apache-2.0
"""Real alerts reach real receivers: a webhook, a mail server, and a server that takes what Slack takes."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from conftest import Site

Wait = Callable[[Callable[[], bool], float], None]
# As the scenario sets them.
HOOK, MAIL, CHAT = "molecule-secret-hook", "molecule-secret-mail", "/services/T0/B0/molecule-secret-chat"
RUNBOOK = "https://github.com/koren/faas/blob/main/docs/runbooks.md#"
# What Slack's incoming webhooks know of a message and of an attachment.
OF_MESSAGE = {"attachments", "blocks", "channel", "icon_emoji", "icon_url", "link_names", "mrkdwn", "text", "username"}
OF_ATTACHMENT = {
    *("actions", "author_icon", "author_link", "author_name", "callback_id", "color", "fallback", "fields", "footer"),
    *("footer_icon", "image_url", "mrkdwn_in", "pretext", "text", "thumb_url", "title", "title_link", "ts"),
}


class MailServer(Controller):
    """Asks for user and password in the words that other servers use, which Alertmanager waits for."""

    def factory(self) -> SMTP:
        made = super().factory()
        made.AuthLoginUsernameChallenge, made.AuthLoginPasswordChallenge = "Username:", "Password:"
        return made


class Receivers:
    """Those who are told, and what they were told so far."""

    def __init__(self, addresses: list[str], cert: str, key: str) -> None:
        self.hooks: list[dict[str, Any]] = []
        self.alive: list[float] = []
        self.chats: list[dict[str, Any]] = []
        self.mails: list[Message] = []
        self.refused: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self._ends: list[Callable[[], None]] = []
        for address in addresses:
            web = ThreadingHTTPServer((address, 18443), self._web())
            web.socket = context.wrap_socket(web.socket, server_side=True)
            threading.Thread(target=web.serve_forever, daemon=True).start()
            mail = MailServer(
                self,
                hostname=address,
                port=18587,
                tls_context=context,
                require_starttls=True,
                auth_required=True,
                authenticator=self._login,
            )
            mail.start()
            self._ends += [web.shutdown, web.server_close, mail.stop]

    def end(self) -> None:
        """Close all ports."""
        for end in self._ends:
            end()

    async def handle_DATA(self, _server: object, _session: object, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content)
        if envelope.rcpt_tos != ["oncall@example.org"] or mail["To"] != "oncall@example.org":
            self.refused.append(f"mail to {envelope.rcpt_tos}")
            return "550 no such mailbox"
        self.mails.append(mail)
        return "250 OK"

    def _login(self, _s: object, _session: object, _e: object, _mechanism: str, data: LoginPassword) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"koren", MAIL.encode()), handled=False)

    def _hook(self, body: dict[str, Any]) -> None:
        assert body["version"] == "4" and body["status"] in ("firing", "resolved") and body["alerts"]
        for alert in body["alerts"]:
            assert alert["labels"]["alertname"] and alert["annotations"]["summary"] and alert["annotations"]["runbook"]
            datetime.fromisoformat(alert["startsAt"])
        self.hooks.append(body)

    def _chat(self, body: dict[str, Any]) -> None:
        assert set(body) <= OF_MESSAGE and body["channel"] == "#koren" and (body.get("text") or body["attachments"])
        for one in body["attachments"]:
            assert set(one) <= OF_ATTACHMENT and one["fallback"] and len(one["text"]) < 3000
            assert re.fullmatch("good|warning|danger|#[0-9a-fA-F]{6}|", one.get("color", ""))
            datetime.fromtimestamp(int(one.get("ts") or 0), UTC)
        self.chats.append(body)

    def _web(self) -> type[BaseHTTPRequestHandler]:
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                known = self.path == CHAT or self.headers["Authorization"] == f"Bearer {HOOK}"
                code, said = (200, "ok") if known else (403, "invalid_token")
                try:
                    assert self.headers["Content-Type"].startswith("application/json")
                    body = json.loads(text)
                    if known and self.path == "/alive":
                        assert [one["labels"]["alertname"] for one in body["alerts"]] == ["Watchdog"]
                        receivers.alive.append(time.time())
                    elif known:
                        receivers._chat(body) if self.path == CHAT else receivers._hook(body)
                except (AssertionError, KeyError, TypeError, ValueError):
                    code, said = 400, "invalid_payload"
                if code != 200:
                    receivers.refused.append(f"{said} at {self.path}: {text[:2000]!r}")
                self.send_response(code)
                self.end_headers()
                self.wfile.write(said.encode())

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def told(self, alert: str, status: str = "firing", **labels: str) -> list[dict[str, Any]]:
        """The alerts of that name, status and labels that the webhook was told."""
        return [
            one
            for body in list(self.hooks)
            for one in body["alerts"]
            if (one["labels"]["alertname"], one["status"]) == (alert, status)
            and labels.items() <= one["labels"].items()
        ]

    def mailed(self, subject: str) -> list[str]:
        """The texts of mails with that subject."""
        return [_text(mail) for mail in list(self.mails) if mail["Subject"] == subject]

    def chatted(self, title: str) -> list[str]:
        """The texts of Slack messages with that title."""
        shown = [one for body in list(self.chats) for one in body["attachments"]]
        return [one["text"] for one in shown if one["title"] == title]


def _text(mail: Message) -> str:
    part = next(part for part in mail.walk() if part.get_content_type() == "text/plain")
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


@pytest.fixture(scope="session")
def receivers(site: Site) -> Iterator[Receivers]:
    """Running receivers, where hosts of the centre and of Seoul reach them: at the controller."""
    addresses = [site.hosts[host].rpartition(".")[0] + ".1" for host in ("central-cp", "seoul-w1")]
    made = Receivers(addresses, *site.client_files("receiver")[1:])
    yield made
    made.end()
    assert made.refused == []


def _api(site: Site, port: int, path: str, body: Any = None, *, certificate: bool = True, method: str = "") -> Any:
    """What Prometheus or Alertmanager of the centre answers."""
    context = ssl.create_default_context(cafile=site.client_files("operator")[0])
    if certificate:
        context.load_cert_chain(*site.client_files("operator")[1:])
    data = None if body is None else json.dumps(body).encode()
    url = f"https://{site.hosts['central-cp']}:{port}{path}"
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json"}, method=method or ("POST" if data else "GET")
    )
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        return json.loads(answer.read() or "null")


def _alerts(site: Site, name: str, **labels: str) -> list[dict[str, Any]]:
    """Alertmanager's alerts of that name, muted ones too."""
    found = [one for one in _api(site, 9093, "/api/v2/alerts") if one["labels"]["alertname"] == name]
    return [one for one in found if labels.items() <= one["labels"].items()]


def _fires(site: Site, name: str, **labels: str) -> bool:
    """Whether Prometheus has an alert of that name."""
    matchers = "".join(f',{key}="{value}"' for key, value in labels.items())
    query = f'ALERTS{{alertname="{name}",alertstate="firing"{matchers}}}'
    return bool(_api(site, 9090, f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")["data"]["result"])


def test_a_region_that_is_cut_off_rings_once_and_everywhere(site: Site, receivers: Receivers, eventually: Wait) -> None:
    eventually(lambda: not _alerts(site, "RegionUnreachable") and not _alerts(site, "NodeNotReady"), 150)
    before = len(receivers.hooks)
    with site.cut_off("central-cp", "seoul-cp", 9090):
        eventually(lambda: bool(receivers.told("RegionUnreachable", region="seoul")), 90)
        # All three, with a text that fits a phone.
        text = "RegionUnreachable, seoul\nseoul does not answer."
        title = "seoul: RegionUnreachable (critical)"
        for told in (receivers.mailed, receivers.chatted):
            eventually(lambda told=told: bool(told(title)), 20)  # type: ignore[misc]
            (shown,) = told(title)
            shown = shown.replace("\r\n", "\n")
            assert text in shown and f"{RUNBOOK}regionunreachable" in shown and ":30443/alerts" in shown
            assert len(shown) < 600
        # All its hosts are unknown meanwhile, which nobody is told.
        muted = [("NodeNotReady", host) for host in ("seoul-cp", "seoul-w1", "seoul-gw")]
        eventually(lambda: all(_alerts(site, name, instance=host) for name, host in muted), 150)
        states = [_alerts(site, name, instance=host)[0]["status"] for name, host in muted]
        assert all(state["inhibitedBy"] for state in states)
        # Longer than it takes until a group is told anew.
        seen = len(receivers.alive)
        eventually(lambda: len(receivers.alive) >= seen + 2, 150)
    eventually(lambda: bool(receivers.told("RegionUnreachable", "resolved", region="seoul")), 240)
    eventually(lambda: bool(receivers.mailed(f"Over: {title}")), 20)
    of_seoul = [
        one for body in receivers.hooks[before:] for one in body["alerts"] if one["labels"]["region"] == "seoul"
    ]
    assert {one["labels"]["alertname"] for one in of_seoul} == {"RegionUnreachable"}
    # Once: a message that a receiver took too long to answer comes again.
    assert len({one["startsAt"] for one in receivers.told("RegionUnreachable", region="seoul")}) == 1


def test_what_is_silenced_is_told_to_nobody_also_after_a_restart(
    site: Site, receivers: Receivers, eventually: Wait
) -> None:
    def matcher(name: str, value: str) -> dict[str, Any]:
        return {"name": name, "value": value, "isRegex": False, "isEqual": True}

    silence = {
        "matchers": [matcher("alertname", "BrokenFileSetAside"), matcher("instance", "seoul-cp")],
        "startsAt": datetime.now(UTC).isoformat(),
        "endsAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "createdBy": "molecule",
        "comment": "seen to",
    }
    made = _api(site, 9093, "/api/v2/silences", silence)["silenceID"]
    site.run("central-cp", "systemctl restart prometheus-alertmanager")
    eventually(lambda: site.run("central-cp", "ss -Hltn sport = :9093") != "", 20)
    assert _api(site, 9093, f"/api/v2/silence/{made}")["status"]["state"] == "active"
    told = "/var/lib/prometheus/node-exporter/molecule.prom"
    metric = 'koren_set_aside_timestamp_seconds{service="redis-server"}'
    try:
        for host in ("seoul-cp", "seoul-w1"):
            site.run(host, f"echo '{metric} '$(date +%s) >{told}")
        eventually(lambda: bool(receivers.told("BrokenFileSetAside", instance="seoul-w1")), 150)
        (silenced,) = _alerts(site, "BrokenFileSetAside", instance="seoul-cp")
        assert silenced["status"]["silencedBy"] == [made]
        assert not receivers.told("BrokenFileSetAside", instance="seoul-cp")
    finally:
        for host in ("seoul-cp", "seoul-w1"):
            site.run(host, f"rm -f {told}")
        _api(site, 9093, f"/api/v2/silence/{made}", method="DELETE")


def test_when_prometheus_writes_no_more_another_host_tells(site: Site, receivers: Receivers, eventually: Wait) -> None:
    name = "central: PrometheusNotWriting (critical)"
    site.run("central-cp", "systemctl stop prometheus")
    try:
        eventually(lambda: bool(receivers.told("PrometheusNotWriting", region="central")), 180)
        eventually(lambda: bool(receivers.mailed(name) and receivers.chatted(name)), 30)
        assert f"{RUNBOOK}prometheusnotwriting" in receivers.mailed(name)[0]
    finally:
        site.run("central-cp", "systemctl start prometheus")
    eventually(lambda: bool(receivers.told("PrometheusNotWriting", "resolved")), 180)
    eventually(lambda: bool(receivers.mailed(f"Over: {name}")), 30)
    # Once, though it looked several times.
    assert len(receivers.mailed(name)) == 1


def test_alertmanager_answers_to_certificates_only_and_has_no_other_port(site: Site) -> None:
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        _api(site, 9093, "/api/v2/status", certificate=False)
    listening = site.run("central-cp", "ss -Hlntup | grep prometheus-aler | awk '{print $1, $5}'").split("\n")
    assert listening == [f"tcp {site.hosts['central-cp']}:9093", ""]


def test_secrets_are_in_files_that_others_do_not_read_and_nowhere_else(site: Site) -> None:
    found = "grep -rl molecule-secret /etc /var/log /run/systemd 2>/dev/null | sort | xargs -r stat -c '%a %U:%G %n'"
    of_centre = {
        f"640 root:prometheus /etc/prometheus/alertmanager/{name}.secret"
        for name in ("chat", "hook", "mail", "watchdog")
    }
    assert set(site.run("central-cp", found).splitlines()) == of_centre
    assert site.run("seoul-w1", found).splitlines() == ["640 root:prometheus /etc/koren/watchdog.json"]
    arguments = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^molecule-secret' || true"
    for host in ("central-cp", "seoul-w1"):
        assert site.run(host, "journalctl --no-pager | grep -c molecule-secret || true").strip() == "0"
        assert site.run(host, arguments).strip() == "0"


def test_the_dead_mans_switch_is_pressed_every_minute(receivers: Receivers, eventually: Wait) -> None:
    # Here, since the others have waited for long enough.
    eventually(lambda: len(receivers.alive) >= 3, 240)
    assert receivers.alive[-1] - receivers.alive[-2] < 75
    assert not receivers.told("Watchdog")
