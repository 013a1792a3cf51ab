# SPDX-License-Identifier: Apache-2.0
"""The description of a function: what a deploy is told, checked before anything is touched."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from koren_faas.debian import PACKAGE
from koren_faas.durations import duration_of, seconds_of
from koren_faas.egress import DEFAULT, problems_of
from koren_faas.errors import FunctionError
from koren_faas.runtimes import DEFAULT as DEFAULT_RUNTIME
from koren_faas.runtimes import IMAGE, unknown

# KEDA names the autoscaler keda-hpa-<name> and writes that into a label, which holds 63 characters.
NAME_LENGTH = 54
CONCURRENCY_MAX = 32
"""Most events that one pod may have in hand; the gateway knows no more slots of a pod."""
BATCH_MAX = 100
BATCH_WINDOW_MAX_S = 300
# Accounts and policies of the functions' namespace that belong to somebody else.
_TAKEN_NAMES = frozenset({"default", "faas-caller"})
# Mounted beside the secrets, under /run/secrets.
_TAKEN_SECRETS = frozenset({"koren", "kubernetes.io"})

_DAY_S = 86400
DELAY_MAX_S = 7 * _DAY_S
PRIORITIES = ("high", "normal", "low")
_HISTORY_MAX_S = 7 * _DAY_S

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SECRET = re.compile(r"[a-z0-9]([-a-z0-9]{0,54}[a-z0-9])?")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SIZE = re.compile(r"0*[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_RATE = re.compile(r"[1-9][0-9]{0,3}/[sm]", re.ASCII)
_REFERENCE = re.compile(r"[a-z0-9][\w.:/@-]*", re.ASCII)
RESERVED_ENV = re.compile(r"MOD_NAME|FUNC_.*|KOREN_.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function as its user describes it.

    Attributes:
        name: DNS label, also the name of its service account, which is its identity.
        handler: `module.function`; the module may be dotted. Of the runtime `image` its program may
            do without.
        runtime: name of one of `RUNTIMES`.
        source: file, folder or archive with the code, or of the runtime `image` an archive of that;
            None keeps the image that a region has, unless `image` names another.
        image: reference of an image in a registry, for the runtime `image`.
        dependencies: requirements file, or `package.json` with its lock file beside it; installed
            into the image.
        packages: Debian packages that the image has beside the runtime's, each `name` or
            `name=version`.
        topic: MQTT topic filter whose events the function gets, below `events/<region>/`;
            `{region}` stands for the region's name. None: only calls start it.
        trigger: name of that trigger; None is the function's own name.
        delay_s: seconds that each event of the topic waits before the function gets it.
        timeout_s: seconds that the handler may take for one event.
        memory: Kubernetes quantity; requested, and the limit, of a pod with all its workers.
        cpu: Kubernetes quantity; requested, not a limit: throttling would slow each start.
        tmp_size: Kubernetes quantity; what `/tmp` may hold. A pod that writes more is evicted.
        min_scale: least pods in one region.
        max_scale: most pods in one region.
        target: incidents with work that one pod is to look after; one more pod for each more. At least
            `concurrency`, times `batch_size`.
        concurrency: most events that one pod has in hand, each with a process of its own.
        batch_size: most events that the handler is given at once; 1: no batches.
        batch_window_s: seconds that an event waits for a full batch; 0: what is there goes at once.
        max_attempts: tries before an event becomes a dead letter.
        max_in_flight: most events that it may have in hand in one region; 0: as many as its pods
            take.
        rate: most events that may be handed to it in one region in any second or minute, as `N/s` or
            `N/m`; empty: no limit.
        priority: one of `PRIORITIES`: whose pods start first when a region's nodes are full.
        history: how long a region keeps each event that it has handled, for a replay, as `24h`; empty: not at all.
        secrets: Kubernetes Secrets mounted as files below `/run/secrets/<secret>/`.
        env: environment variables of the handler.
        egress: what its pods may connect to, beside the gateway and DNS: `default`, `none`, or
            destinations `CIDR` or `CIDR:PORT`, with `default` among them or without.
        opens: event type that opens an incident: the function stays up until it closes.
        closes: event type that closes it.
        incident_limit_s: seconds after which an open incident counts as closed.

    Raises:
        FunctionError: a value can't be accepted; the message names it.
    """

    name: str
    handler: str = ""
    runtime: str = DEFAULT_RUNTIME
    source: Path | None = None
    image: str | None = None
    dependencies: Path | None = None
    packages: tuple[str, ...] = ()
    topic: str | None = None
    trigger: str | None = None
    delay_s: int = 0
    timeout_s: int = 180
    memory: str = "256Mi"
    cpu: str = "100m"
    tmp_size: str = "64Mi"
    min_scale: int = 0
    max_scale: int = 10
    target: int = 1
    concurrency: int = 1
    batch_size: int = 1
    batch_window_s: int = 0
    max_attempts: int = 5
    max_in_flight: int = 0
    rate: str = ""
    priority: str = "normal"
    history: str = ""
    secrets: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    egress: tuple[str, ...] = (DEFAULT,)
    opens: str | None = None
    closes: str | None = None
    incident_limit_s: int = 3600

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise FunctionError(f"function {self.name!r}: {problem}")

    @property
    def has_content(self) -> bool:
        """Whether it names what its image is made from."""
        return self.source is not None or self.image is not None

    @property
    def module(self) -> str:
        """Module part of the handler."""
        return self.handler.rpartition(".")[0]

    @property
    def entry(self) -> str:
        """Function part of the handler."""
        return self.handler.rpartition(".")[2]

    def for_region(self, region: str) -> Function:
        """The function as it is in `region`.

        Raises:
            FunctionError: its topic belongs to another region.
        """
        if self.topic is None:
            return self
        topic = self.topic.replace("{region}", region)
        level = topic.split("/")[1]
        if level not in (region, "+", "#"):
            raise FunctionError(
                f"function {self.name!r}: topic {self.topic!r} can't match an event of {region}:"
                f" its second level must be {region}, {{region}} or +"
            )
        return replace(self, topic=topic)


def _problems(f: Function) -> list[str]:
    problems = []
    if not _NAME.fullmatch(f.name) or len(f.name) > NAME_LENGTH:
        problems.append(
            f"a name is at most {NAME_LENGTH} lower-case letters, digits and inner hyphens"
        )
    if f.name in _TAKEN_NAMES:
        problems.append("the name is taken by an account of the platform, choose another")
    parts = f.handler.split(".")
    needs_handler = f.runtime != IMAGE or f.handler
    if needs_handler and (len(parts) < 2 or not all(_IDENTIFIER.fullmatch(part) for part in parts)):
        problems.append(f"handler {f.handler!r} is not of the form module.function")
    if runtime_problem := unknown(f.runtime):
        problems.append(runtime_problem)
    elif f.runtime == IMAGE:
        problems += _image_problems(f)
    elif f.image is not None:
        problems.append(f"image {f.image} needs the runtime {IMAGE}, not {f.runtime}")
    if f.dependencies is not None and f.source is None:
        problems.append("dependencies are part of the image: give the source with them")
    for package in f.packages:
        if not PACKAGE.fullmatch(package):
            problems.append(
                f"{package!r} can't be a Debian package; give names such as libgomp1, or name=version"
            )
    for option, quantity, example in (("memory", f.memory, "256Mi"), ("cpu", f.cpu, "500m")):
        if not _QUANTITY.fullmatch(quantity):
            problems.append(
                f"Wrong format of the {option} value: {quantity!r}; give one such as {example}"
            )
    if not _SIZE.fullmatch(f.tmp_size):
        problems.append(
            f"Wrong format of the tmp-size value: {f.tmp_size!r}; give one such as 64Mi"
        )
    for option, number in (
        ("timeout", f.timeout_s),
        ("max-scale", f.max_scale),
        ("target", f.target),
        ("max-attempts", f.max_attempts),
        ("incident-limit", f.incident_limit_s),
    ):
        if number < 1:
            problems.append(f"{option} is {number}, it must be at least 1")
    if not 1 <= f.concurrency <= CONCURRENCY_MAX:
        problems.append(
            f"concurrency is {f.concurrency}; give a number from 1 to {CONCURRENCY_MAX}, and more pods"
            " by max-scale"
        )
    if not 1 <= f.batch_size <= BATCH_MAX:
        problems.append(f"batch-size is {f.batch_size}; give a number from 1 to {BATCH_MAX}")
    if not 0 <= f.batch_window_s <= BATCH_WINDOW_MAX_S:
        problems.append(
            f"batch-window is {duration_of(f.batch_window_s)}; give {duration_of(BATCH_WINDOW_MAX_S)} at most"
        )
    if f.batch_window_s and f.batch_size == 1:
        problems.append("a batch-window without batches: give a batch-size above 1 with it, or the batch-window 0s")
    if f.max_in_flight < 0:
        problems.append(f"max-in-flight is {f.max_in_flight}, it can't be negative; 0 is no limit")
    if f.rate and not _RATE.fullmatch(f.rate):
        problems.append(f"rate is {f.rate!r}; give N/s or N/m, with N from 1 to 9999")
    if f.priority not in PRIORITIES:
        problems.append(f"priority is {f.priority!r}; give {', '.join(PRIORITIES[:-1])} or {PRIORITIES[-1]}")
    if f.history and not _is_history(f.history):
        problems.append(f"history is {f.history!r}; give Ns, Nm, Nh or Nd, at most 7d, e.g. 24h")
    if f.min_scale < 0:
        problems.append(f"min-scale is {f.min_scale}, it can't be negative")
    if f.max_scale < f.min_scale:
        problems.append(
            f"max-scale is {f.max_scale}, it must be greater than or equal to min-scale"
            f" ({f.min_scale})"
        )
    if f.timeout_s >= _DAY_S:
        problems.append(f"timeout is {f.timeout_s}, it must be less than a day")
    if f.topic is not None:
        problems += _topic_problems(f.topic)
    problems += delay_problems(f.delay_s)
    if f.delay_s and f.topic is None:
        problems.append("a delay without topic: it is for events of the topic; give both, or neither")
    if f.trigger is not None and not _NAME.fullmatch(f.trigger):
        problems.append(
            f"trigger {f.trigger!r}: a name is lower-case letters, digits and inner hyphens"
        )
    if f.closes is not None and f.opens is None:
        problems.append("--closes without --opens: name the event type that opens the incident")
    for secret in f.secrets:
        if not _SECRET.fullmatch(secret) or secret in _TAKEN_SECRETS:
            problems.append(f"{secret!r} can't be the name of a secret")
    problems += problems_of(f.egress)
    for variable in f.env:
        if not _IDENTIFIER.fullmatch(variable):
            problems.append(f"{variable!r} can't be the name of an environment variable")
        elif RESERVED_ENV.fullmatch(variable):
            problems.append(f"environment variable {variable} is set by the platform")
    return problems


def _is_history(text: str) -> bool:
    with contextlib.suppress(FunctionError):
        return not text.startswith("0") and seconds_of("history", text) <= _HISTORY_MAX_S
    return False


def _image_problems(f: Function) -> list[str]:
    problems = []
    if f.image is not None and f.source is not None:
        problems.append(f"it has two images, {f.image} and the archive {f.source}: give one")
    if f.image is not None and not _REFERENCE.fullmatch(f.image):
        problems.append(f"image {f.image!r} is no reference such as registry.example/team/name:1.2")
    if f.dependencies is not None or f.packages:
        problems.append(f"dependencies and packages of the runtime {IMAGE} are in the image itself")
    return problems


def delay_problems(delay_s: int) -> list[str]:
    """What is wrong with a delay of that many seconds."""
    if 0 <= delay_s <= DELAY_MAX_S:
        return []
    return [f"delay is {duration_of(delay_s)}; give {duration_of(DELAY_MAX_S)} at most"]


def _topic_problems(topic: str) -> list[str]:
    levels = topic.split("/")
    if levels[0] != "events" or len(levels) < 2:
        return [
            f"topic {topic!r} does not begin with events/<region>/, such as events/{{region}}/+/accident"
        ]
    for position, level in enumerate(levels):
        alone = level in ("+", "#")
        last = position == len(levels) - 1
        if not level or (not alone and ("+" in level or "#" in level)):
            return [f"topic {topic!r}: level {level!r} is not a valid part of a topic filter"]
        if level == "#" and not last:
            return [f"topic {topic!r}: # can only be the last level"]
    return []
