# SPDX-License-Identifier: Apache-2.0
"""What pods of a node reach, by packets: the kernel has the rules that follow from the objects of functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from koren_faas.function import Function
from koren_faas.manifests import for_function, for_namespace

REPO = Path(__file__).parents[2]
PROGRAM = REPO / ".state/bundle/network-policy/bin/koren-network-policy"

# Pods of the node, by name: last part of the address, namespace, labels. Nobody has told of the last one.
GATEWAY_LABELS = {"app.kubernetes.io/name": "gateway"}
PODS: dict[str, tuple[int, str, dict[str, str]]] = {
    "plain": (10, "functions", {"faas.koren.kr/function": "plain"}),
    "declared": (11, "functions", {"faas.koren.kr/function": "declared"}),
    "alone": (12, "functions", {"faas.koren.kr/function": "alone"}),
    "by-hand": (13, "functions", {}),
    "gateway": (20, "koren-faas", GATEWAY_LABELS),
    "dns": (21, "kube-system", {"k8s-app": "kube-dns"}),
    "keda": (22, "keda", {}),
    "unknown": (30, "functions", {}),
}
AT = {name: f"10.244.1.{number}" for name, (number, _, _) in PODS.items()} | {
    "bridge": "10.244.1.1",
    "node": "10.0.11.10",
    "redis": "10.0.11.99",
    "metadata": "169.254.169.254",
    "world": "203.0.113.9",
    "other-node": "10.244.0.0",
}
OUTSIDE = ("redis", "metadata", "world", "other-node")
LISTEN = """
import socket, sys, selectors
chosen = selectors.DefaultSelector()
for port in (53, 443, 8080, 9090, 9100, 10250):
    one = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    chosen.register(one, selectors.EVENT_READ, lambda one: one.accept()[0].close())
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("0.0.0.0", 53))
chosen.register(names, selectors.EVENT_READ, lambda one: one.sendto(b"answer", one.recvfrom(100)[1]))
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        key.data(key.fileobj)
"""
ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
source, asked = json.loads(sys.argv[1])
def reached(one):
    host, port = one
    try:
        if port < 0:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
                names.settimeout(2)
                names.sendto(b"question", (host, -port))
                return names.recv(100) == b"answer"
        socket.create_connection((host, port), 2, (source, 0) if source else None).close()
        return True
    except OSError:
        return False
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(reached, asked))))
"""


def policies() -> list[dict[str, Any]]:
    """Those of three functions, of their namespace, and the gateway's."""
    declared = {"plain": ("default",), "declared": ("10.0.11.99:443",), "alone": ("none",)}
    objects = for_namespace()
    for name, egress in declared.items():
        objects += for_function(Function(name=name, handler="a.b", egress=egress), "image", ())
    gateway = {
        "podSelector": {"matchLabels": GATEWAY_LABELS},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"ipBlock": {"cidr": "10.244.0.0/16"}}], "ports": [{"port": "runtime", "protocol": "TCP"}]},
            {
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}],
                "ports": [{"port": "scaler", "protocol": "TCP"}],
            },
            {
                "from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"]}}],
                "ports": [{"port": "metrics", "protocol": "TCP"}],
            },
        ],
    }
    made = [one for one in objects if one["kind"] == "NetworkPolicy"]
    return [*made, {"metadata": {"name": "gateway", "namespace": "koren-faas"}, "spec": gateway}]


def world() -> dict[str, Any]:
    """All that the rules of a node follow from."""
    ports = {"runtime": 8080, "scaler": 9090, "metrics": 9100}
    containers = [{"ports": [{"name": name, "containerPort": port} for name, port in ports.items()]}]
    known = {name: pod for name, pod in PODS.items() if name != "unknown"}
    return {
        "node": "seoul-w1",
        "sandboxes": [
            {"uid": name, "namespace": namespace, "labels": labels, "addresses": [AT[name]]}
            for name, (_, namespace, labels) in known.items()
        ],
        # The API server does not tell of the newest yet.
        "pods": [
            {
                "metadata": {"uid": name, "name": name, "namespace": namespace, "labels": labels},
                "spec": {"nodeName": "seoul-w1", "containers": containers if name == "gateway" else []},
            }
            for name, (_, namespace, labels) in known.items()
            if namespace != "functions"
        ],
        "namespaces": [
            {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}
            for name in {namespace for _, namespace, _ in PODS.values()}
        ],
        "nodes": [{"spec": {"podCIDRs": [cidr]}} for cidr in ("10.244.0.0/24", "10.244.1.0/24")],
        "policies": policies(),
    }


class Node:
    """A node with its pods and what is around it, each in a network namespace of its own."""

    def __init__(self) -> None:
        self.prefix = f"np{os.getpid()}-"
        self._listening: list[subprocess.Popen[str]] = []

    def run(self, name: str, *command: str, stdin: str | None = None) -> str:
        """What a command in one of the namespaces prints."""
        whole = ["ip", "netns", "exec", self.prefix + name, *command]
        done = subprocess.run(whole, check=False, capture_output=True, text=True, input=stdin, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def make(self) -> None:
        """Bring all up, and have something listen at each address."""
        for name in ("node", "outside", *PODS):
            subprocess.run(["ip", "netns", "add", self.prefix + name], check=True)
            self.run(name, "ip", "link", "set", "lo", "up")
        self.run("node", "sh", "-ec", "ip link add cni0 type bridge; ip address add 10.244.1.1/24 dev cni0; "
                 "ip link set cni0 up; "
                 "sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 "
                 "net.bridge.bridge-nf-call-ip6tables=1")  # fmt: skip
        for name in ("outside", *PODS):
            link = f"to-{name}"[:15]
            self.run("node", "ip", "link", "add", link, "type", "veth", "peer", "eth0", "netns", self.prefix + name)
            if name != "outside":
                self.run("node", "ip", "link", "set", link, "master", "cni0")
                self.run(name, "sh", "-ec", f"ip address add {AT[name]}/24 dev eth0; ip link set eth0 up; "
                         "ip route add default via 10.244.1.1")  # fmt: skip
            self.run("node", "ip", "link", "set", link, "up")
        self.run("node", "sh", "-ec", f"ip address add {AT['node']}/24 dev to-outside; "
                 f"ip route add default via {AT['redis']}; ip route add 10.244.0.0/24 via {AT['redis']}")  # fmt: skip
        add = "; ".join(f"ip address add {AT[name]}/{24 if name == 'redis' else 32} dev eth0" for name in OUTSIDE)
        self.run("outside", "sh", "-ec", f"{add}; ip link set eth0 up; ip route add 10.244.0.0/16 via {AT['node']}")
        for name in ("node", "outside", *PODS):
            command = ["ip", "netns", "exec", self.prefix + name, sys.executable, "-c", LISTEN]
            self._listening.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for one in self._listening:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"

    def end(self) -> None:
        """Take all away."""
        for one in self._listening:
            one.kill()
            one.wait()
        for name in ("node", "outside", *PODS):
            subprocess.run(["ip", "netns", "delete", self.prefix + name], check=False)

    def close(self) -> None:
        """What is done before a node's first pod starts."""
        self.run("node", str(PROGRAM), "close")

    def load(self, objects: dict[str, Any]) -> None:
        """Load the rules that follow from these objects."""
        rules = self.run("node", str(PROGRAM), "render", stdin=json.dumps(objects))
        self.run("node", "nft", "--file", "-", stdin=rules)

    def reached(self, who: str, *whom: str, source: str = "") -> set[str]:
        """Which of these, each `name:port` or `name:udp-port`, one can reach."""
        asked = [(AT[name], int(port.replace("udp", ""))) for name, port in (one.split(":") for one in whom)]
        told = self.run(who, sys.executable, "-c", ASK, json.dumps([source, asked]))
        return {one for one, there in zip(whom, json.loads(told), strict=True) if there}


@pytest.fixture(scope="module")
def bare() -> Iterator[Node]:
    """A node without rules."""
    if not PROGRAM.exists():
        pytest.fail("there is no koren-network-policy; run make bundle")
    node = Node()
    try:
        node.make()
        yield node
    finally:
        node.end()


@pytest.fixture
def node(bare: Node) -> Node:
    """The node with the rules of all that is told of it."""
    bare.load(world())
    return bare


EVERYTHING = [
    f"{name}:{port}"
    for name in AT
    for port in ("udp-53" if name == "dns" else "53", "443", "8080", "9090", "9100", "10250")
]
NEEDED = {"dns:udp-53", "gateway:8080"}


@pytest.mark.parametrize(
    ("who", "whom"),
    [
        ("plain", NEEDED | {f"world:{port}" for port in ("53", "443", "8080", "9090", "9100", "10250")}),
        ("declared", NEEDED | {"redis:443"}),
        ("alone", NEEDED),
        ("by-hand", set()),
        ("unknown", set()),
    ],
)
def test_a_pod_reaches_what_is_declared_and_nothing_else(node: Node, who: str, whom: set[str]) -> None:
    asked = [one for one in EVERYTHING if not one.startswith(f"{who}:")]
    assert node.reached(who, *asked) == whom


@pytest.mark.parametrize("whom", ["node", "redis", "bridge", "declared", "gateway"])
def test_who_is_refused_hears_so_at_once(node: Node, whom: str) -> None:
    ask = "import socket, sys; socket.create_connection((sys.argv[1], 9100), 60)"
    with pytest.raises(AssertionError, match="No route to host"):
        node.run("alone", sys.executable, "-c", ask, AT[whom])


def test_a_pod_that_no_policy_selects_is_not_restricted(node: Node) -> None:
    whom = ["world:443", "redis:443", "node:10250", "dns:9100", "gateway:9090"]
    assert node.reached("keda", *whom) == set(whom)
    # The gateway is asked by those that it lets in, and a function by nobody.
    assert node.reached("keda", "gateway:9100", "plain:8080", "unknown:8080") == set()


def test_nodes_reach_pods_and_others_what_is_let_in(node: Node) -> None:
    assert node.reached("node", "plain:8080", "gateway:9100") == {"plain:8080", "gateway:9100"}
    whom = ["plain:8080", "gateway:9100", "gateway:9090"]
    assert node.reached("outside", *whom, source=AT["other-node"]) == set(whom)
    assert node.reached("outside", *whom, source=AT["world"]) == {"gateway:9100"}


@pytest.mark.parametrize(("who", "device"), [("node", "cni0"), ("gateway", "eth0")])
def test_addresses_of_version_6_are_closed_too(node: Node, who: str, device: str) -> None:
    (link,) = json.loads(node.run(who, "ip", "-json", "-6", "address", "show", "dev", device))
    address = f"{link['addr_info'][0]['local']}%eth0"
    ask = "import socket, sys; socket.create_connection((sys.argv[1], 10250), 2)"
    with pytest.raises(AssertionError, match=r"TimeoutError|timed out"):
        node.run("plain", sys.executable, "-c", ask, address)


def test_a_node_that_nobody_told_anything_lets_no_pod_out(bare: Node) -> None:
    bare.run("node", "nft", "flush", "ruleset")
    assert bare.reached("plain", "gateway:8080", "node:10250") == {"gateway:8080", "node:10250"}
    bare.close()
    assert bare.reached("plain", *EVERYTHING[:40]) == {one for one in EVERYTHING[:6]}
    # The table of a node whose program starts anew stays.
    bare.load(world())
    bare.close()
    assert bare.reached("alone", *NEEDED) == NEEDED
