# SPDX-License-Identifier: Apache-2.0
"""What shaping by class does for events beside a flow that fills the link, and what a new rule set costs.

    bench.py FOLDER NET          the site's folder and the first half of its addresses; prints one line of JSON

Messages of an event's size go from the centre to an edge's broker port over the gateways, whose link carries 20 Mbit/s,
and their way takes as long as it takes: alone, beside a bulk flow, and beside it when all share one queue. The three
take turns, so that what else the machine does meets them alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import Site

# As the scenario's inventory has them.
HOSTS = {"central-gw": "10.2", "central-cp": "10.10", "seoul-gw": "11.2", "seoul-cp": "11.10", "sns-1": "0.30"}
ROUNDS = 4
SECONDS = 10
PORT = 8883
PROGRAM = "/root/probes.py"
# The same rate without classes. The program that keeps the classes must not put them back meanwhile.
ONE_QUEUE = """systemctl stop koren-nfv && tc qdisc del dev {0} root &&
    tc qdisc add dev {0} root handle 7: htb default 1 && tc class add dev {0} parent 7: classid 7:1 htb rate 20mbit"""


def percentile(values: list[float], part: float) -> float:
    """The value below which that part of the values is."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


class Turn:
    """Milliseconds from the centre to the edge by the messages' size, and what the bulk flow carried meanwhile."""

    def __init__(self, site: Site, *, bulk: bool) -> None:
        self._site, self._bulk = site, bulk
        self._ms: dict[str, list[float]] = {}
        self._mbit: list[float] = []

    def run(self) -> None:
        """One round more."""
        answers: dict[str, str] = {}

        def ask(name: str, host: str, *words: Any) -> None:
            answers[name] = self._site.run(host, " ".join(["nice -n -15 python3", PROGRAM, *map(str, words)]))

        edge = self._site.hosts["seoul-cp"]
        jobs = [threading.Thread(target=ask, args=("collect", "seoul-cp", "collect", PORT, SECONDS + 5))]
        if self._bulk:
            jobs.append(threading.Thread(target=ask, args=("fill", "central-cp", "fill", edge, 7002, SECONDS + 3)))
        for job in jobs:
            job.start()
        # The bulk flow's windows are open by then.
        time.sleep(3)
        ask("latency", "central-cp", "latency", edge, PORT, SECONDS)
        for job in jobs:
            job.join()
        for size, values in json.loads(answers["collect"]).items():
            self._ms.setdefault(size, []).extend(values)
        if self._bulk:
            self._mbit.append(float(answers["fill"]))

    def result(self) -> dict[str, Any]:
        """What came of all rounds."""
        found: dict[str, Any] = {
            size: {f"p{part}_ms": percentile(values, part / 100) for part in (50, 99)} | {"count": len(values)}
            for size, values in self._ms.items()
        }
        return found | ({"bulk_mbit": round(sum(self._mbit) / len(self._mbit), 1)} if self._bulk else {})


def reloads(site: Site) -> dict[str, Any]:
    """What a stream of 1,000 packets a second sees of ten new rule sets."""
    told: dict[str, Any] = {}
    words = f"stream {site.hosts['central-cp']} {PORT} 7003 1000 25"
    running = threading.Thread(
        target=lambda: told.update(json.loads(site.run("seoul-cp", f"python3 {PROGRAM} {words}")))
    )
    running.start()
    time.sleep(1)
    for number in range(10):
        change = f"policy['flows'][0]['ports'] = ['{7100 + number}']"
        code = f"import json; policy = json.load(open('/etc/koren-nfv.json')); {change}; print(json.dumps(policy))"
        site.run("seoul-gw", f'python3 -c "{code}" >/root/policy')
        site.run("seoul-gw", "koren-nfv stage /root/policy 20 && koren-nfv confirm")
    running.join()
    if not told:
        sys.exit("the stream of packets failed")
    site.run("seoul-gw", "koren-nfv stage /etc/koren-nfv.json 20 && koren-nfv confirm")
    quiet = json.loads(site.run("seoul-cp", f"python3 {PROGRAM} {words}"))
    return told | {"rule_sets": 10, "longest_gap_without_any_ms": quiet["longest_gap_ms"]}


def main(folder: str, net: str) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as sockets:
        site = Site(Path(folder), {host: f"{net}.{rest}" for host, rest in HOSTS.items()}, Path(sockets))
        program = (Path(__file__).parent / "probes.py").read_text()
        for host, ports in (("central-cp", f"{PORT} 7003"), ("seoul-cp", "7002 7004")):
            site.run(host, f"cat >{PROGRAM} <<'END'\n{program}\nEND")
            site.run(host, f"systemd-run --quiet --collect --unit=probes python3 {PROGRAM} serve {ports}")
        # Frames as they are on a wire, not whole messages at once.
        interface = site.run("central-cp", "ip -o route show default").split()[4]
        offload = f"ethtool -K {interface} tso {{0}} gso {{0}}"
        site.run("central-cp", offload.format("off"))
        shown = site.run("central-gw", f"ip -o route get {site.hosts['sns-1']}").split()
        device = shown[shown.index("dev") + 1]
        try:
            alone, beside, one_queue = (Turn(site, bulk=bulk) for bulk in (False, True, True))
            for _ in range(ROUNDS):
                alone.run()
                beside.run()
                site.run("central-gw", ONE_QUEUE.format(device))
                try:
                    one_queue.run()
                finally:
                    site.run("central-gw", f"tc qdisc del dev {device} root; systemctl start koren-nfv")
                    # Until its classes are there again.
                    time.sleep(2)
            found: dict[str, Any] = {"bench": "network functions", "link_mbit": 20}
            turns = {"alone": alone, "beside_bulk": beside, "beside_bulk_in_one_queue": one_queue}
            found |= {name: turn.result() for name, turn in turns.items()}
            for size in ("1KiB", "60KiB"):
                idle = found["alone"][size]["p99_ms"]
                found[f"p99_{size}_times_alone"] = {
                    "classes": round(found["beside_bulk"][size]["p99_ms"] / idle, 2),
                    "one_queue": round(found["beside_bulk_in_one_queue"][size]["p99_ms"] / idle, 2),
                }
            found["new_rule_sets"] = reloads(site)
        finally:
            site.run("central-cp", offload.format("on"))
            for host in ("central-cp", "seoul-cp"):
                site.run(host, "systemctl stop probes", check=False)
                address = site.hosts[host]
                subprocess.run(["ssh", "-o", f"ControlPath={sockets}/%h", "-O", "exit", address], capture_output=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
