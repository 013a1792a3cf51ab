# SPDX-License-Identifier: Apache-2.0
"""The check of a Redis that others run, against real servers: one that is fit, and one for each fault."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
PASSWORD = "p@ss word:1#2"
RIGHTS = (
    "~koren:* &koren:* +@read +@write +@connection +@transaction +@scripting +@pubsub -@dangerous"
    " +info +time +config|get"
)
FIT = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
Start = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a server's certificate for 127.0.0.1, which is its own authority, and another authority."""
    folder = tmp_path_factory.mktemp("pki")
    for name in ("redis", "other"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
                *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"),
            ],
            check=True,
            capture_output=True,
        )
    return folder


@contextmanager
def server(folder: Path, pki: Path, rights: str, settings: dict[str, str]) -> Iterator[int]:
    """A Redis with one user, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tls = {"tls-port": port, "tls-cert-file": pki / "redis.crt", "tls-key-file": pki / "redis.key"}
    lines = {
        "port": 0,
        "bind": "127.0.0.1",
        "dir": folder,
        "tls-auth-clients": "no",
        "tls-ca-cert-file": pki / "redis.crt",
    }
    told = [f"{name} {value}" for name, value in (lines | tls | settings).items()]
    told += [f"user koren on #{_sha256(PASSWORD)} {rights}", "user default off"]
    (folder / "redis.conf").write_text("\n".join(told) + "\n")
    process = subprocess.Popen(["redis-server", folder / "redis.conf"], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def start(tmp_path: Path, pki: Path) -> Iterator[Start]:
    """Starts a Redis and says how the module is to reach it."""
    with ExitStack() as stack:

        def begin(rights: str = RIGHTS, **settings: str) -> dict[str, Any]:
            named = {name.replace("_", "-"): value for name, value in settings.items()}
            port = stack.enter_context(server(tmp_path, pki, rights, FIT | named))
            reached = {"host": "127.0.0.1", "port": port, "user": "koren", "password": PASSWORD}
            return reached | {"ca": (pki / "redis.crt").read_text(), "owner": "local/seoul"}

        yield begin


def module(**arguments: Any) -> dict[str, Any]:
    """What the module answers."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.koren.faas.plugins.modules.redis_check"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env=os.environ | {"PYTHONPATH": str(REPO / ".collections")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert PASSWORD not in json.dumps(answer.get("msg", ""))
    return answer


def test_a_fit_redis_is_claimed_once_and_by_one(start: Start) -> None:
    reached = start()
    assert module(**reached, _ansible_check_mode=True)["changed"]
    first = module(**reached)
    assert first["changed"] and first["version"].count(".") == 2
    assert not module(**reached)["changed"]
    refused = module(**reached | {"owner": "local/busan"})
    assert refused["failed"] and "has the queue of local/seoul" in refused["msg"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"appendonly": "no"}, "set 'appendonly yes'"),
        ({"appendfsync": "everysec"}, "set 'appendfsync always'"),
        ({"maxmemory_policy": "allkeys-lru"}, "set 'maxmemory-policy noeviction'"),
        ({"replicaof": "127.0.0.1 1"}, "it is a slave"),
        ({"cluster_enabled": "yes"}, "it is a cluster"),
        ({"rights": RIGHTS.replace("+config|get", "")}, "appendfsync can't be read"),
        ({"rights": RIGHTS.replace("+@scripting", "-@scripting")}, "may not EVAL"),
        ({"rights": RIGHTS.replace("&koren:*", "resetchannels")}, "may not PUBLISH"),
        ({"rights": RIGHTS.replace("~koren:*", "~app:*")}, "may not GET"),
    ],
)
def test_what_would_lose_events_is_refused_with_the_remedy(start: Start, settings: dict[str, str], told: str) -> None:
    answer = module(**start(**settings))
    assert answer["failed"] and told in answer["msg"], answer


def test_who_can_not_be_asked_is_named(start: Start, pki: Path) -> None:
    reached = start()
    for wrong, told in (
        ({"password": "wrong"}, "refuses the user koren"),
        ({"ca": (pki / "other.crt").read_text()}, "by the authority in redis_external.ca"),
        ({"ca": "no certificate"}, "not a certificate in PEM"),
        ({"port": 1}, "can't be reached"),
    ):
        answer = module(**reached | wrong)
        assert answer["failed"] and told in answer["msg"], answer
    # Nothing was claimed.
    assert module(**reached)["changed"]
