# SPDX-License-Identifier: Apache-2.0
"""One request for a page: who asks, in which language and zone, and how it is rendered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from koren_console.model import Board, Health, Incident, Role, Topic, Words
from koren_console.web import figures
from koren_console.web.access import Auth, User
from koren_console.web.words import Language, preferred, text, texts

STATIC = Path(str(resources.files(__package__).joinpath("static")))
SHAPES = {Health.OK: "●", Health.WATCH: "▲", Health.ACT: "■", Health.UNKNOWN: "○"}
# What a host is ahead of another at most while its clock is right.
CLOCKS_APART_S = 5
THEMES = ("system", "light", "dark")


@cache
def static(name: str) -> str:
    """The address of a static file, with its content's hash so that browsers may keep it."""
    return f"/static/{name}?{hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


@cache
def environment() -> Environment:
    """Jinja's environment for the templates."""
    made = Environment(
        loader=PackageLoader("koren_console.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals.update(static=static, Topic=Topic, Health=Health, Role=Role)
    made.filters.update(
        seconds=figures.seconds,
        tick=figures.tick,
        count=figures.count,
        rate=figures.rate,
        share=figures.share,
        size=figures.size,
    )
    return made


@dataclass(frozen=True)
class Console:
    """What all pages share."""

    board: Board
    auth: Auth
    trace_url: str = ""
    """Address of a trace, as the settings have it."""


class View:
    """A request and what its answer depends on."""

    def __init__(self, console: Console, request: Request) -> None:
        self.request = request
        self.board = console.board
        self.auth = console.auth
        self.trace_url = console.trace_url
        self.user: User | None = console.auth.user(request)
        self.now = datetime.now(UTC)

    @cached_property
    def language(self) -> Language:
        """The language to answer in."""
        return preferred(self.request.cookies.get("language"), self.request.headers.get("accept-language", ""))

    @cached_property
    def zone(self) -> ZoneInfo:
        """The reader's time zone."""
        return figures.zone(self.request.cookies.get("zone", ""))

    @property
    def theme(self) -> str:
        """system, light or dark."""
        chosen = self.request.cookies.get("theme", "")
        return chosen if chosen in THEMES else "system"

    @property
    def wall(self) -> bool:
        """Whether the page hangs on a wall: larger, without controls."""
        return self.request.query_params.get("wall") == "1"

    @property
    def operator(self) -> bool:
        """Whether the reader may change something."""
        return self.user is not None and self.user.role is Role.OPERATOR

    @property
    def ringing(self) -> Health:
        """The worst state of the alerts that ring."""
        loud = (one for one in self.board.alerts() if not one.silenced_until and not one.inhibited)
        return Health.ACT if any(one.severity in ("critical", "page") for one in loud) else Health.WATCH

    @property
    def path(self) -> str:
        """The address without the host."""
        query = self.request.url.query
        return self.request.url.path + (f"?{query}" if query else "")

    def t(self, key: str, **values: Any) -> Markup:
        """The page's own text."""
        return text(self.language, key, **values)

    def named(self, kind: str, value: str) -> Markup:
        """The text of a value of that kind, such as a severity; of one that is not known, the value itself."""
        return self.t(f"{kind}.{value}") if f"{kind}.{value}" in texts() else escape(value)

    def what(self, incident: Incident) -> Markup:
        """What an incident is: an accident by its severity, anything else by its kind."""
        if incident.kind == "accident":
            return self.named("severity", incident.severity)
        return self.named("incident-kind", incident.kind)

    def w(self, words: Words | None) -> str:
        """The reader's of two texts."""
        if words is None:
            return ""
        return (words.ko or words.en) if self.language == "ko" else (words.en or words.ko)

    def time(self, at: datetime | None, *, relative: bool = True) -> Markup:
        """A `<time>`: how long ago within an hour, else the clock; exact with its zone on hover."""
        if at is None:
            return Markup(figures.UNKNOWN)
        said = figures.clock(at, self.zone, self.now, seconds=not relative)
        kind = "clock"
        if relative:
            kind = "age"
            gone = (self.now - at).total_seconds()
            if -CLOCKS_APART_S < gone < 0:
                gone = 0
            if 0 <= gone < 3600:
                said = str(self.t("age.s", n=int(gone)) if gone < 60 else self.t("age.min", n=int(gone // 60)))
            elif -3600 < gone < 0:
                said = str(self.t("age.in-s", n=int(-gone)) if gone > -60 else self.t("age.in-min", n=int(-gone // 60)))
        return Markup('<time datetime="{}" data-kind="{}" title="{}">{}</time>').format(
            at.isoformat(timespec="milliseconds"), kind, figures.exact(at, self.zone), said
        )

    def health(self, health: Health, word: str = "") -> Markup:
        """A state as colour, shape and word."""
        return Markup('<span class="state {}"><span class="shape" aria-hidden="true">{}</span> {}</span>').format(
            health.value, SHAPES[health], word or self.t(f"health.{health.value}")
        )

    def link(self, **changes: str | int | None) -> str:
        """This address with other query parameters; `None` takes one away."""
        query = {key: value for key, value in self.request.query_params.items() if key not in changes}
        query.update({key: str(value) for key, value in changes.items() if value is not None})
        return self.request.url.path + (f"?{urlencode(query)}" if query else "")

    def page(self, template: str, title: str, status: int = 200, **context: Any) -> Response:
        """The answer: a whole page, whose live sections the browser takes out when it already shows it."""
        html = (
            environment()
            .get_template(template)
            .render(view=self, t=self.t, w=self.w, time=self.time, health=self.health, title=title, **context)
        )
        # Half a surrogate pair, which JSON can hold, has no UTF-8.
        return HTMLResponse(html.encode(errors="replace"), status, headers={"Cache-Control": "no-store"})
