"""The HTTP triggers of a region: paths of its ingress that start functions, as their ConfigMaps say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from koren_gateway.cluster.functions import Rate, is_name, rate_of
from koren_gateway.cluster.triggers import TRIGGER_LABEL
from koren_gateway.cluster.watched import Known, Watched, label_of

KIND = "http"
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
OWN_PATHS = "/-/"
"""Paths below this are the gateway's own."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?")
_PATH = re.compile(r"/([A-Za-z0-9._~!$&'()+,;=:@-]+(/[A-Za-z0-9._~!$&'()+,;=:@-]+)*)?/?")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_HEADER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?")
_SECRET = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_PATH_MAX = 512
_HEADERS_MAX = 16
_WITHHELD = ("authorization", "cookie", "proxy-authorization")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTrigger:
    """A path of the region's ingress, and what a request for it does."""

    name: str
    function: str
    path: str
    """`/orders`, or `/orders/*` for all that is below it as well."""
    host: str = ""
    """The name that the client asks for; empty: any."""
    methods: tuple[str, ...] = ("POST",)
    is_async: bool = False
    """Whether a client gets a receipt at once instead of the result."""
    rate: Rate | None = None
    token_secret: str = ""
    """Secret of the functions' namespace whose values are the tokens; empty: anybody may start the function."""
    headers: tuple[str, ...] = ()
    """Request headers that the function gets, in lower case."""
    paused: bool = False

    @property
    def prefix(self) -> str | None:
        """What the paths below it begin with; none when it has one path only."""
        return self.path.removesuffix("*") if self.path.endswith("/*") else None

    def takes(self, path: str) -> bool:
        """Whether a request's path is the trigger's."""
        if self.prefix is None:
            return path == self.path
        return path.startswith(self.prefix) or path == self.prefix.removesuffix("/")


@dataclass(frozen=True, slots=True)
class RefusedHttpTrigger:
    """A ConfigMap that declares an HTTP trigger and is none, and why."""

    name: str
    problem: str


def http_trigger_of(declared: Mapping[str, Any]) -> HttpTrigger:
    """The trigger that a ConfigMap (as JSON) declares.

    Raises ValueError that names the key and what it should be.
    """
    name = str(declared["metadata"]["labels"][TRIGGER_LABEL])
    data: Mapping[str, Any] = declared.get("data") or {}
    if not _NAME.fullmatch(name):
        raise ValueError(f"label {TRIGGER_LABEL} is {name!r}; give a DNS label of at most 54 characters, e.g. orders")
    function, path, host, secret = (str(data.get(key) or "") for key in ("function", "path", "host", "token-secret"))
    if not is_name(function):
        raise ValueError(f"function is {function!r}; give a function's name, e.g. hello")
    _check_path(path)
    if host and not _HOST.fullmatch(host):
        raise ValueError(f"host is {host!r}; give a DNS name in lower case, e.g. hello.example")
    if secret and not _SECRET.fullmatch(secret):
        raise ValueError(f"token-secret is {secret!r}; give the name of a Secret")
    if bool(secret) is _flag(data, "anonymous"):
        raise ValueError("give either token-secret or anonymous: true, for anybody may start the function then")
    return HttpTrigger(
        name=name,
        function=function,
        path=path,
        host=host,
        methods=_methods(data),
        is_async=_flag(data, "async"),
        rate=rate_of("rate", str(data.get("rate") or "")),
        token_secret=secret,
        headers=_headers(data),
        paused=_flag(data, "paused"),
    )


def _check_path(path: str) -> None:
    if len(path) > _PATH_MAX or not _PATH.fullmatch(path.removesuffix("*") if path.endswith("/*") else path):
        raise ValueError(f"path is {path[:80]!r}; give one such as /orders, or /orders/* with all that is below it")
    if {".", ".."} & set(path.split("/")):
        raise ValueError(f"path is {path[:80]!r}; leave out . and ..")
    if path.startswith(OWN_PATHS) or path == OWN_PATHS.removesuffix("/"):
        raise ValueError(f"path is {path!r}; what is below {OWN_PATHS} is the gateway's own")


def _flag(data: Mapping[str, Any], key: str) -> bool:
    value = str(data.get(key) or "false")
    if value not in ("true", "false"):
        raise ValueError(f"{key} is {value!r}; give true or false")
    return value == "true"


def _words(data: Mapping[str, Any], key: str) -> list[str]:
    return str(data.get(key) or "").replace(",", " ").split()


def _methods(data: Mapping[str, Any]) -> tuple[str, ...]:
    methods = _words(data, "methods") or ["POST"]
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"methods has {method!r}; give some of {', '.join(METHODS)}")
    return tuple(sorted(set(methods)))


def _headers(data: Mapping[str, Any]) -> tuple[str, ...]:
    headers = [name.lower() for name in _words(data, "headers")]
    if len(headers) > _HEADERS_MAX:
        raise ValueError(f"headers has {len(headers)} names; give at most {_HEADERS_MAX}")
    for name in headers:
        if not _HEADER.fullmatch(name):
            raise ValueError(f"headers has {name!r}; give names such as X-GitHub-Event")
        if name in _WITHHELD:
            raise ValueError(f"headers has {name!r}, which holds a secret that no function gets; leave it out")
    return tuple(sorted(set(headers)))


class HttpTriggers(Watched[HttpTrigger, RefusedHttpTrigger]):
    """The HTTP triggers as last seen.

    A host and path belong to one trigger: of two that have the same, or one name, the younger is refused.
    """

    what = "HTTP trigger"
    # A trigger whose right to be called was mistyped must not stay open as it was.
    wrong_ends = True

    def __init__(self) -> None:
        super().__init__()
        self._triggers: tuple[HttpTrigger, ...] = ()

    def all(self) -> tuple[HttpTrigger, ...]:
        """Every trigger, by name."""
        return tuple(sorted(self._triggers, key=lambda trigger: trigger.name))

    def get(self, name: str) -> HttpTrigger | None:
        """The trigger of that name."""
        return next((trigger for trigger in self._triggers if trigger.name == name), None)

    def of(self, host: str, path: str) -> HttpTrigger | None:
        """The trigger of a request: one that names the host before one for any, then the longest path."""
        return next((one for one in self._triggers if one.host in ("", host) and one.takes(path)), None)

    def _read(self, declared: Mapping[str, Any]) -> HttpTrigger | None:
        return http_trigger_of(declared) if (declared.get("data") or {}).get("kind") == KIND else None

    def _refuse(self, declared: Mapping[str, Any], problem: str) -> RefusedHttpTrigger:
        return RefusedHttpTrigger(label_of(declared, TRIGGER_LABEL), problem)

    def _settle(self, known: list[Known[HttpTrigger]]) -> dict[str, RefusedHttpTrigger]:
        taken: list[HttpTrigger] = []
        refused: dict[str, RefusedHttpTrigger] = {}
        for one in known:
            trigger = one.value
            same = next((other for other in taken if _clash(other, trigger)), None)
            if same is None:
                taken.append(trigger)
                continue
            problem = f"trigger {same.name} has {trigger.host}{trigger.path} already; a path has one trigger"
            if same.name == trigger.name:
                problem = f"another ConfigMap declares trigger {same.name} already; delete one of the two"
            refused[one.made[1]] = RefusedHttpTrigger(trigger.name, problem)
        # An exact path is longer than the prefix that it begins with; `/a` comes before `/a/*`.
        self._triggers = tuple(sorted(taken, key=lambda one: (not one.host, -len(_stem(one)), one.prefix is not None)))
        return refused


def _stem(trigger: HttpTrigger) -> str:
    return trigger.path if trigger.prefix is None else trigger.prefix.removesuffix("/")


def _clash(one: HttpTrigger, other: HttpTrigger) -> bool:
    return one.name == other.name or (one.host, one.path) == (other.host, other.path)
