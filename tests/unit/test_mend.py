# SPDX-License-Identifier: Apache-2.0
"""What a power cut leaves of Redis' and Mosquitto's files does not keep them from starting."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import redis
from paho.mqtt import publish
from paho.mqtt.enums import CallbackAPIVersion
from redis.backoff import NoBackoff
from redis.retry import Retry

ROLES = Path(__file__).parents[2] / "roles"
MOSQUITTO = "/usr/sbin/mosquitto"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mend(program: str, path: Path, metrics: Path | None = None) -> str:
    """What the program says."""
    script = ROLES / program / "files" / f"koren-{program}-mend"
    command = ["/usr/bin/python3", script, path, *([metrics] if metrics else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[redis.Redis]:
    """A server of that folder; ConnectionError when it ends as it starts."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "yes"]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:
        client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))
        try:
            while server.poll() is None:
                with contextlib.suppress(redis.ConnectionError, redis.exceptions.BusyLoadingError):
                    client.ping()
                    break
            yield client
        finally:
            client.close()
            server.kill()


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """The folder of a server that was killed: 50 entries, each written by a script as two commands."""
    with running_redis(tmp_path) as client:
        for number in range(50):
            client.eval("redis.call('RPUSH', 'koren:q', ARGV[1]) redis.call('SET', 'koren:n', ARGV[1])", 0, number)
    return tmp_path


def written(folder: Path) -> Path:
    """The file that commands are appended to."""
    return next((folder / "appendonlydir").glob("*.incr.aof"))


def entries(folder: Path) -> int:
    with running_redis(folder) as client:
        assert client.get("koren:n") == b"%d" % (client.llen("koren:q") - 1)
        return int(client.llen("koren:q"))


TORN = {
    "zeros": bytes(5000),
    "zeros in a command": b"*3\r\n$5\r\nRPUSH\r\n$7\r\nkoren:q\r\n$100\r\n" + bytes(4096),
    "zeros in a transaction": b"*1\r\n$5\r\nMULTI\r\n*3\r\n$5\r\nRPUSH\r\n$7\r\nkoren:q\r\n$1\r\nx\r\n" + bytes(4096),
}


@pytest.mark.parametrize("tail", TORN.values(), ids=TORN)
def test_redis_loses_a_torn_tail_alone_and_the_file_is_kept(queue: Path, tail: bytes) -> None:
    file = written(queue)
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    with pytest.raises((redis.ConnectionError, AssertionError)), running_redis(queue) as client:
        client.ping()
    metrics = queue / "koren_redis.prom"
    told = mend("redis", queue / "appendonlydir", metrics)
    assert f"cut {len(tail)} bytes off" in told
    assert entries(queue) == 50
    (kept,) = (queue / "set-aside").iterdir()
    assert kept.read_bytes() == whole + tail and str(kept) in told
    assert 'koren_set_aside_timestamp_seconds{service="redis-server"} ' in metrics.read_text()
    assert mend("redis", queue / "appendonlydir") == ""


@pytest.mark.parametrize("cut", [0, 1, 7, 20, 57, 80])
def test_what_redis_mends_by_itself_is_left_to_it(queue: Path, cut: int) -> None:
    file = written(queue)
    os.truncate(file, file.stat().st_size - cut)
    before = file.read_bytes()
    assert mend("redis", queue / "appendonlydir") == ""
    assert file.read_bytes() == before
    assert entries(queue) == (50 if cut == 0 else 49)


def test_a_file_that_is_broken_before_its_end_is_not_cut(queue: Path) -> None:
    file = written(queue)
    whole = bytearray(file.read_bytes())
    whole[1000:1100] = bytes(100)
    file.write_bytes(whole)
    assert "has commands behind it: left as it is" in mend("redis", queue / "appendonlydir")
    assert file.read_bytes() == whole


def test_a_server_without_a_file_yet_has_nothing_to_mend(tmp_path: Path) -> None:
    assert mend("redis", tmp_path / "appendonlydir") == ""
    assert mend("mosquitto", tmp_path / "mosquitto.db") == ""


@pytest.fixture(scope="module")
def store() -> Iterator[bytes]:
    """The store of a broker with one session and what is queued for it."""
    with tempfile.TemporaryDirectory() as name, running_broker(Path(name)) as (server, port):
        session = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="session", clean_session=False)
        session.on_connect = lambda *_: session.subscribe("t", 1)
        session.on_subscribe = lambda *_: session.disconnect()
        session.connect("127.0.0.1", port)
        session.loop_forever()
        publish.single("t", "kept" * 1000, qos=1, hostname="127.0.0.1", port=port)
        server.terminate()
        server.wait()
        yield (Path(name) / "mosquitto.db").read_bytes()


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A broker whose store is in that folder; its process has ended if it does not start."""
    if os.geteuid() == 0:
        shutil.chown(folder, "mosquitto")
    port = free_port()
    config = folder / "broker.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
        "log_dest none\n"
    )
    config.chmod(0o644)
    with subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.02)
            yield server, port
        finally:
            server.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the broker's own user reaches."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            shutil.chown(name, "mosquitto")
        yield Path(name)


@pytest.mark.parametrize("broken", ["zeros", "cut short", "noise"])
def test_a_broken_store_is_set_aside_and_the_broker_starts(folder: Path, store: bytes, broken: str) -> None:
    content = {"zeros": bytes(len(store)), "cut short": store[: len(store) // 2], "noise": b"noise" * 1000}[broken]
    path = folder / "mosquitto.db"
    path.write_bytes(content)
    if os.geteuid() == 0:
        shutil.chown(path, "mosquitto")
    with running_broker(folder) as (server, _):
        assert server.poll() is not None, "this broker would have started"
    metrics = folder / "koren_mosquitto.prom"
    told = mend("mosquitto", path, metrics)
    (kept,) = folder.glob("mosquitto.db.*")
    assert kept.read_bytes() == content and str(kept) in told
    assert 'koren_set_aside_timestamp_seconds{service="mosquitto"} ' in metrics.read_text()
    with running_broker(folder) as (server, _):
        assert server.poll() is None


def test_a_good_store_stays(folder: Path, store: bytes) -> None:
    path = folder / "mosquitto.db"
    path.write_bytes(store)
    if os.geteuid() == 0:
        shutil.chown(path, "mosquitto")
    assert mend("mosquitto", path) == ""
    assert path.read_bytes() == store and sorted(folder.iterdir()) == [path]
