# SPDX-License-Identifier: Apache-2.0
"""Runs on the hosts: servers, and clients that tell what came of it. Needs nothing but Python.

    probes.py serve TCP_PORTS UDP_PORTS              answer each TCP connection with the caller's address, echo after it
    probes.py reach HOST/PROTO/PORT...               JSON: what of it answers within 1.5 s, to "open" or why not
    probes.py hold HOST PORT COUNT                   JSON: how many of COUNT connections at once are served
    probes.py stream HOST TCP_PORT UDP_PORT RATE S   send small packets, RATE a second in all, half of them over each;
                                                     JSON: sent, lost, resets, longest gap between two answers
    probes.py collect PORT S                         take messages of `latency` for S seconds; JSON: latencies by size
    probes.py latency HOST PORT S                    send messages of 1 and 60 KiB, each with its time
    probes.py fill HOST PORT S                       fill the link with four connections; JSON: Mbit/s
    probes.py forge SOURCE HOST PORT COUNT           send datagrams with another's address
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import socket
import struct
import sys
import threading
import time

# Length of the whole message and its time.
HEAD = struct.Struct("!Id")
SIZES = {"1KiB": 1 << 10, "60KiB": 60 << 10}


async def serve(tcp: list[int], udp: list[int]) -> None:
    """Answer for ever."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(f"{writer.get_extra_info('peername')[0]}\n".encode())
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            self.transport.sendto(data, address)  # type: ignore[attr-defined]

    for port in tcp:
        await asyncio.start_server(echo, "0.0.0.0", port, backlog=64)
    for port in udp:
        await asyncio.get_running_loop().create_datagram_endpoint(Echo, ("0.0.0.0", port))
    await asyncio.Event().wait()


async def _reach(target: str) -> str:
    host, protocol, port = target.split("/")
    try:
        if protocol == "tcp":
            async with asyncio.timeout(1.5):
                _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            return "open"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((host, int(port)))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(1.5):
                # What a time server answers too.
                await loop.sock_sendall(client, b"\x1b" + bytes(47))
                await loop.sock_recv(client, 100)
            return "open"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


async def reach(targets: list[str]) -> dict[str, str]:
    """What each target answers."""
    return dict(zip(targets, await asyncio.gather(*map(_reach, targets)), strict=True))


def hold(host: str, port: int, count: int) -> int:
    """How many connections at once get an answer."""
    with contextlib.ExitStack() as stack:
        served = 0
        for _ in range(count):
            with contextlib.suppress(OSError):
                client = stack.enter_context(socket.create_connection((host, port), 1.5))
                served += bool(client.recv(50))
    return served


def stream(host: str, tcp_port: int, udp_port: int, rate: int, seconds: float) -> dict[str, float]:
    """Numbered packets there and back over one TCP connection and over UDP."""
    tcp = socket.create_connection((host, tcp_port), 10)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    udp.connect((host, udp_port))
    own = tcp.makefile("rb")
    own.readline()
    back: dict[str, list[float]] = {"tcp": [], "udp": []}
    resets: list[str] = []

    def receive(name: str) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                try:
                    got = own.read(8) if name == "tcp" else udp.recv(8)
                except TimeoutError:
                    raise
                except OSError as error:
                    resets.append(f"{name}: {error}")
                    return
                if not got:
                    return
                back[name].append(time.monotonic())

    tcp.settimeout(3)
    udp.settimeout(3)
    threads = [threading.Thread(target=receive, args=(name,)) for name in back]
    for thread in threads:
        thread.start()
    began, sent = time.monotonic(), 0
    due = began
    while time.monotonic() - began < seconds:
        try:
            tcp.sendall(struct.pack("!Q", sent))
            udp.send(struct.pack("!Q", sent))
        except OSError as error:
            resets.append(str(error))
        sent += 1
        # What a busy machine held up is not made up for by a burst.
        due = max(due + 2 / rate, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
    for thread in threads:
        thread.join()
    gaps = [after - before for times in back.values() for before, after in itertools.pairwise(times)]
    return {
        "sent": 2 * sent,
        "lost": 2 * sent - sum(map(len, back.values())),
        "resets": len(resets),
        "rate": round(2 * sent / seconds),
        "longest_gap_ms": round(max(gaps, default=0) * 1000, 1),
    }


def collect(port: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds from a message's time to the arrival of its last byte."""
    found: dict[str, list[float]] = {name: [] for name in SIZES}
    names = {size: name for name, size in SIZES.items()}
    with socket.create_server(("0.0.0.0", port)) as server:
        server.settimeout(seconds)
        client, _ = server.accept()
        client.settimeout(seconds)
        with client.makefile("rb") as messages, contextlib.suppress(TimeoutError):
            while len(head := messages.read(HEAD.size)) == HEAD.size:
                size, sent = HEAD.unpack(head)
                messages.read(size - HEAD.size)
                found[names[size]].append(round((time.time() - sent) * 1000, 2))
    return found


def latency(host: str, port: int, seconds: float) -> None:
    """Sixteen small messages and eight large ones a second."""
    with socket.create_connection((host, port), 5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            size = SIZES["60KiB" if count % 3 == 2 else "1KiB"]
            client.sendall(HEAD.pack(size, time.time()) + bytes(size - HEAD.size))
            count += 1
            time.sleep(max(0.0, began + count / 24 - time.monotonic()))


def fill(host: str, port: int, seconds: float) -> float:
    """Mbit/s that four connections carry there in the time."""
    ends = time.monotonic() + seconds
    total = [0] * 4

    def drain(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(1 << 16):
                pass

    def send(one: int) -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as client:
            threading.Thread(target=drain, args=(client,), daemon=True).start()
            client.settimeout(seconds)
            while time.monotonic() < ends:
                total[one] += client.send(bytes(1 << 15))

    threads = [threading.Thread(target=send, args=(one,)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(sum(total) * 8 / 1e6 / seconds, 1)


def forge(source: str, host: str, port: int, count: int) -> None:
    """UDP datagrams with a source address that is not this host's."""
    datagram = struct.pack("!HHHH", 40000, port, 8, 0)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(host)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(count):
            raw.sendto(header + datagram, (host, 0))


def main(words: list[str]) -> None:
    """Do what the words say."""
    match words:
        case ["serve", tcp, udp]:
            asyncio.run(serve([int(port) for port in tcp.split(",")], [int(port) for port in udp.split(",")]))
        case ["reach", *targets]:
            print(json.dumps(asyncio.run(reach(targets))))
        case ["hold", host, port, count]:
            print(hold(host, int(port), int(count)))
        case ["stream", host, tcp, udp, rate, seconds]:
            print(json.dumps(stream(host, int(tcp), int(udp), int(rate), float(seconds))))
        case ["collect", port, seconds]:
            print(json.dumps(collect(int(port), float(seconds))))
        case ["latency", host, port, seconds]:
            latency(host, int(port), float(seconds))
        case ["fill", host, port, seconds]:
            print(fill(host, int(port), float(seconds)))
        case ["forge", source, host, port, count]:
            forge(source, host, int(port), int(count))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
