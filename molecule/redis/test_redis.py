# SPDX-License-Identifier: Apache-2.0
"""The queue of a region, used over the network with the gateway's password."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest
import redis
from conftest import Site
from redis.backoff import NoBackoff
from redis.retry import Retry

PORT = 6379
Wait = Callable[[Callable[[], bool], float], None]


def _client(site: Site, user: str | None, password: str | None) -> redis.Redis:
    return redis.Redis(
        host=site.hosts["seoul-cp"],
        port=PORT,
        username=user,
        password=password,
        ssl=True,
        ssl_ca_certs=site.client_files("operator")[0],
        ssl_check_hostname=True,
        retry=Retry(NoBackoff(), 0),
    )


@pytest.fixture
def gateway(site: Site) -> redis.Redis:
    """A client with the gateway's password."""
    return _client(site, "gateway", (site.folder / "secrets/redis-seoul").read_text().strip())


def test_the_password_is_a_secret_of_the_site(site: Site) -> None:
    secret = site.folder / "secrets/redis-seoul"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in site.run("seoul-cp", "cat /etc/redis/*")


def test_nobody_else_gets_in(site: Site) -> None:
    with pytest.raises(redis.AuthenticationError, match="invalid username-password"):
        _client(site, "gateway", "wrong" * 8).ping()
    with pytest.raises(redis.AuthenticationError, match="client already authenticated"):
        _client(site, None, None).get("key")
    with (
        socket.create_connection((site.hosts["seoul-cp"], PORT), 5) as plain,
        contextlib.suppress(ConnectionResetError),
    ):
        plain.sendall(b"PING\r\n")
        assert b"PONG" not in plain.recv(100)


def test_a_queue_in_lua_works(gateway: redis.Redis) -> None:
    script = """
        local now = redis.call('TIME')[1]
        redis.call('RPUSH', KEYS[1], ARGV[1])
        redis.call('ZADD', KEYS[2], now, ARGV[1])
        redis.call('HSETNX', KEYS[3], 'at', now)
        redis.call('PEXPIRE', KEYS[3], 60000)
        redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10, '*', 'event', ARGV[1])
        redis.call('PUBLISH', 'koren:bell', 'ring')
        return redis.call('ZCARD', KEYS[2])
    """
    keys = ["koren:list", "koren:ready", "koren:state", "koren:receipts"]
    with gateway.pubsub() as bell:
        bell.subscribe("koren:bell")
        assert gateway.evalsha(gateway.script_load(script), len(keys), *keys, "event") == 1
        messages = [bell.get_message(timeout=2) for _ in range(2)]
        assert messages[1] and messages[1]["data"] == b"ring"
    assert gateway.delete(*keys) == len(keys)
    assert gateway.info("memory")["maxmemory_policy"] == "noeviction"


@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "SET", "appendonly", "no"),
        ("CONFIG", "REWRITE"),
        ("ACL", "LIST"),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("SHUTDOWN",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("MODULE", "LIST"),
        ("MONITOR",),
        ("SWAPDB", "0", "1"),
        ("FUNCTION", "FLUSH"),
        ("SCRIPT", "FLUSH"),
        ("SET", "other", "1"),
        ("GET", "other"),
        ("COPY", "koren:a", "other"),
        ("PUBLISH", "other", "1"),
        ("SUBSCRIBE", "other"),
    ],
    ids=" ".join,
)
def test_the_gateway_does_not_administer(gateway: redis.Redis, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        gateway.execute_command(*command)


def test_a_script_has_the_gateways_keys_only(gateway: redis.Redis) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match="can't access at least one of the keys"):
        gateway.eval("return redis.call('SET', 'other', '1')", 0)


def test_a_torn_tail_is_cut_off_at_the_start_and_kept(site: Site, gateway: redis.Redis, eventually: Wait) -> None:
    gateway.set("koren:before-the-cut", "1")
    file = site.run("seoul-cp", "ls /var/lib/redis/appendonlydir/*.incr.aof").strip()
    site.run(
        "seoul-cp", f"systemctl stop redis-server && head -c 5000 /dev/zero >>{file} && systemctl start redis-server"
    )
    assert gateway.get("koren:before-the-cut") == b"1"
    told = site.run("seoul-cp", "journalctl --unit=redis-server --grep='was broken at its end' --output=cat")
    assert "cut 5000 bytes off; as it was it is /var/lib/redis/set-aside/" in told
    assert site.run("seoul-cp", "stat -c %U:%a /var/lib/redis/appendonlydir/*.incr.aof").strip() == "redis:640"
    gateway.delete("koren:before-the-cut")
    site.run("seoul-cp", "rm -r /var/lib/redis/set-aside")


def test_a_killed_server_has_lost_nothing(site: Site, gateway: redis.Redis, eventually: Wait) -> None:
    # A script that writes twice is kept as one transaction.
    script = "redis.call('RPUSH', KEYS[1], ARGV[1]); redis.call('HSET', KEYS[2], ARGV[1], 'seen')"
    for number in range(500):
        gateway.eval(script, 2, "koren:survives", "koren:survives:seen", number)
    site.run("seoul-cp", "systemctl kill --signal=KILL redis-server")

    def back() -> bool:
        try:
            return bool(gateway.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False

    time.sleep(0.2)
    eventually(back, 20)
    assert [int(value) for value in gateway.lrange("koren:survives", 0, -1)] == list(range(500))
    assert gateway.hlen("koren:survives:seen") == 500
    gateway.delete("koren:survives", "koren:survives:seen")


def test_a_full_server_refuses_and_evicts_nothing(gateway: redis.Redis) -> None:
    piece = b"x" * (8 << 20)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        for number in range(20):
            gateway.set(f"koren:full:{number}", piece)
    try:
        assert gateway.exists("koren:full:0")
    finally:
        gateway.delete(*(f"koren:full:{number}" for number in range(20)))
