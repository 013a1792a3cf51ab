#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Steer a flow through network functions."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_chain
short_description: Steer a flow through network functions, one after the other
description:
  - With I(driver=openstack) the chain consists of networking-sfc's port pairs, port pair groups, flow classifiers and a
    port chain. The module runs where the API can be reached.
  - With I(driver=gateway) the chain consists of nftables marks and policy routes. The module runs as root on the host
    that routes between the flow's two ends and that shares a network with the functions. Functions are identified by
    their link address, so run the module again after a function was replaced. A function must send forwarded packets
    back to this host.
  - A packet that a function drops, or that is sent to a function that is down, is lost.
requirements:
  - openstacksdk (with I(driver=openstack))
  - nftables and iproute2 (with I(driver=gateway))
options:
  name:
    description: Name of the chain.
    type: str
    required: true
  state:
    description: Whether the chain should exist.
    type: str
    choices: [present, absent]
    default: present
  driver:
    description: How the chain is realised.
    type: str
    choices: [gateway, openstack]
    required: true
  classifiers:
    description: The flow. Required with I(state=present).
    type: list
    elements: dict
    default: []
    suboptions:
      protocol:
        description: The protocol.
        type: str
        choices: [tcp, udp, icmp]
        default: tcp
      ports:
        description: Destination ports, each as C(8883) or C(8000-8010).
        type: list
        elements: str
        default: []
      sources:
        description: CIDRs that the flow comes from.
        type: list
        elements: str
        required: true
      destinations:
        description: CIDRs that the flow goes to.
        type: list
        elements: str
        required: true
      source_port:
        description: Name or ID of the Neutron port where the flow starts; most networking-sfc drivers require it.
        type: str
      destination_port:
        description: Name or ID of the Neutron port where the flow ends.
        type: str
  functions:
    description: Functions in the order that the flow passes them. Required with I(state=present).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the function.
        type: str
        required: true
      address:
        description: Address of the function. Required with I(driver=gateway).
        type: str
      ingress:
        description: Name or ID of the Neutron port that receives packets. Required with I(driver=openstack).
        type: str
      egress:
        description: Name or ID of the Neutron port that sends packets back; default I(ingress).
        type: str
  symmetric:
    description: Whether answers pass the functions too, in the opposite order.
    type: bool
    default: false
  cloud:
    description: Name of the cloud in C(clouds.yaml), with I(driver=openstack); default the environment's.
    type: str
attributes:
  check_mode:
    support: full
    description: Reports what would be changed.
  diff_mode:
    support: full
    description: Shows marks and routes, or the changes to networking-sfc's objects.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Steer the cameras' streams through a filter
  koren.faas.service_chain:
    name: cameras
    driver: gateway
    classifiers:
      - {protocol: tcp, ports: [8554], sources: [10.90.10.20], destinations: [10.90.0.20]}
    functions:
      - {name: filter-1, address: 10.90.10.30}

- name: Do the same on OpenStack
  koren.faas.service_chain:
    name: cameras
    driver: openstack
    cloud: seoul
    classifiers:
      - {protocol: tcp, ports: [8554], sources: [10.90.10.20], destinations: [10.90.0.20], source_port: hpc-1}
    functions:
      - {name: filter-1, ingress: filter-1-in, egress: filter-1-out}
"""

RETURN = r"""
changes:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: [load rules]
"""

import json
import shutil
import socket
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.koren.faas.plugins.module_utils.service_chain import (
    Realisation,
    Sfc,
    check_classifiers,
    check_name,
    flow_matches,
    loaded_marker,
    mark,
    read,
    routing,
    steering,
    table,
    unit,
)

FOLDER = Path("/etc/koren-chains")
UNITS = Path("/etc/systemd/system")


class Gateway:
    """The chain as marks and routes on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._params = module.params
        self._name: str = self._params["name"]
        self._rules_file = FOLDER / f"{self._name}.nft"
        self._unit = f"koren-chain-{self._name}.service"
        self.changes: list[str] = []
        for program in ("nft", "ip"):
            if not shutil.which(program):
                module.fail_json(msg=f"{program} is missing on this host; install nftables and iproute2")

    def present(self) -> dict[str, str]:
        """Create or update the chain; returns before and after."""
        functions = self._params["functions"]
        interface = self._interface(functions[0]["address"])
        hardware = [self._hardware(one["address"]) for one in functions]
        addresses = [one["address"] for one in functions]
        rules = steering(self._name, self._params["classifiers"], hardware, interface, self._params["symmetric"])
        service = unit(self._name, str(self._rules_file), addresses, interface)
        before = self._text()
        files = {self._rules_file: rules, UNITS / self._unit: service}
        stale = {path: text for path, text in files.items() if not path.exists() or path.read_text() != text}
        if stale:
            self.changes.append("describe the chain")
        wanted = {mark(self._name, one) for one in range(len(functions))}
        ours = self._marks()
        routes = routing(self._name, addresses, interface)
        missing = [
            (rule, route)
            for number, (rule, route) in zip(sorted(wanted), routes, strict=True)
            if number not in ours or not self._route(number, addresses[number & 0xFF], interface)
        ]
        if missing or ours - wanted:
            self.changes.append("set routes")
        if loaded_marker(rules) not in self._loaded():
            self.changes.append("load rules")
        if not self._module.check_mode and self.changes:
            self._run("nft", "--check", "--file", "-", data=rules)
            FOLDER.mkdir(mode=0o755, exist_ok=True)
            for path, text in stale.items():
                part = path.with_name(path.name + ".part")
                part.write_text(text)
                part.chmod(0o644)
                part.replace(path)
            # The route comes first, then its rule: a packet with a mark and no route would bypass the functions.
            for rule, route in missing:
                self._run("ip", *route)
                if int(rule[5], 16) not in ours:
                    self._run("ip", *rule)
            self._run("nft", "--file", str(self._rules_file))
            self._forget(ours - wanted)
            self._run("systemctl", "daemon-reload")
            self._run("systemctl", "--quiet", "enable", self._unit)
        return {"before": before, "after": rules + service}

    def absent(self) -> dict[str, str]:
        """Remove the chain; returns before and after."""
        before = self._text()
        ours = self._marks()
        if self._loaded():
            self.changes.append("unload rules")
        if ours:
            self.changes.append("remove routes")
        if before:
            self.changes.append("remove the description")
        if not self._module.check_mode and self.changes:
            if self._loaded():
                self._run("nft", "delete", "table", "inet", table(self._name))
            self._forget(ours)
            if (UNITS / self._unit).exists():
                self._run("systemctl", "--quiet", "disable", self._unit)
            for path in (UNITS / self._unit, self._rules_file):
                path.unlink(missing_ok=True)
            self._run("systemctl", "daemon-reload")
        return {"before": before, "after": ""}

    def _text(self) -> str:
        paths = (self._rules_file, UNITS / self._unit)
        return "".join(path.read_text() for path in paths if path.exists())

    def _loaded(self) -> set[str]:
        """Names of the chains in the loaded table; empty if there is no table."""
        code, out, _ = self._module.run_command(["nft", "--json", "list", "table", "inet", table(self._name)])
        entries = json.loads(out)["nftables"] if code == 0 else []
        return {entry["chain"]["name"] for entry in entries if "chain" in entry}

    def _marks(self) -> set[int]:
        """Marks of this chain that have a rule."""
        rules = json.loads(self._run("ip", "-json", "rule", "show") or "[]")
        marks = {int(str(rule["fwmark"]).split("/")[0], 16) for rule in rules if "fwmark" in rule}
        return {number for number in marks if number & 0xFFFFFF00 == mark(self._name, 0) & 0xFFFFFF00}

    def _route(self, number: int, address: str, interface: str) -> bool:
        code, out, _ = self._module.run_command(["ip", "-json", "route", "show", "table", str(number)])
        routes = json.loads(out or "[]") if code == 0 else []
        return [(one.get("gateway"), one.get("dev")) for one in routes] == [(address, interface)]

    def _forget(self, numbers: set[int]) -> None:
        for number in sorted(numbers):
            self._run("ip", "rule", "del", "fwmark", hex(number), "table", str(number))
            self._run("ip", "route", "flush", "table", str(number))

    def _interface(self, address: str) -> str:
        (route,) = json.loads(self._run("ip", "-json", "route", "get", address))
        if "gateway" in route or route.get("type") == "local":
            self._module.fail_json(
                msg=f"functions: address: {address!r} is on none of this host's networks;"
                " run the module on a gateway that shares a network with the functions"
            )
        return str(route["dev"])

    def _hardware(self, address: str) -> str:
        """The link address of a function. A datagram to its discard port makes the kernel resolve it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _ in range(20):
                probe.sendto(b"", (address, 9))
                probe.settimeout(0.1)
                found = json.loads(self._run("ip", "-json", "neighbor", "show", address) or "[]")
                known = [one["lladdr"] for one in found if "lladdr" in one and "FAILED" not in one["state"]]
                if known:
                    return str(known[0])
                try:
                    probe.recv(1)
                except OSError:
                    continue
        self._module.fail_json(msg=f"functions: address: {address!r} does not answer; start the function first")
        raise AssertionError

    def _run(self, *command: str, data: str | None = None) -> str:
        _, out, _ = self._module.run_command(list(command), data=data, check_rc=True)
        return str(out)


def _openstack(module: AnsibleModule) -> tuple[list[str], dict[str, str]]:
    try:
        import openstack
    except ImportError:
        module.fail_json(msg=missing_required_lib("openstacksdk"))
    params = module.params
    try:
        sfc = Sfc(openstack.connect(cloud=params["cloud"]).network)
        chain = Realisation(sfc, read(sfc), params["name"], check=module.check_mode)
        if params["state"] == "absent":
            chain.absent()
        else:
            ports: dict[str | None, str | None] = {None: None}
            for one in params["classifiers"]:
                for side in ("source_port", "destination_port"):
                    if one[side] not in ports:
                        ports[one[side]] = sfc.port(one[side])
                    one[side] = ports[one[side]]
            functions = [
                {
                    "name": one["name"],
                    "ingress": sfc.port(one["ingress"]),
                    "egress": sfc.port(one["egress"] or one["ingress"]),
                }
                for one in params["functions"]
            ]
            chain.present(flow_matches(params["classifiers"]), functions, symmetric=params["symmetric"])
    except LookupError as error:
        module.fail_json(msg=f"chain {params['name']!r}: {error}")
    except (openstack.exceptions.SDKException, openstack.exceptions.ConfigException) as error:
        module.fail_json(msg=f"chain {params['name']!r}: {error}")
    return chain.changes, {"before": "", "after": "".join(f"{change}\n" for change in chain.changes)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "driver": {"type": "str", "choices": ["gateway", "openstack"], "required": True},
            "classifiers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "protocol": {"type": "str", "choices": ["tcp", "udp", "icmp"], "default": "tcp"},
                    "ports": {"type": "list", "elements": "str", "default": []},
                    "sources": {"type": "list", "elements": "str", "required": True},
                    "destinations": {"type": "list", "elements": "str", "required": True},
                    "source_port": {"type": "str"},
                    "destination_port": {"type": "str"},
                },
            },
            "functions": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str"},
                    "ingress": {"type": "str"},
                    "egress": {"type": "str"},
                },
            },
            "symmetric": {"type": "bool", "default": False},
            "cloud": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    wrong = check_name(params["name"]) or check_classifiers(params["classifiers"])
    if params["state"] == "present" and not wrong:
        needed = "address" if params["driver"] == "gateway" else "ingress"
        without = [one["name"] for one in params["functions"] if not one[needed]]
        if not params["classifiers"] or not params["functions"]:
            wrong = "classifiers and functions are required: set the flow and the functions that it passes"
        elif without:
            wrong = f"functions: {without[0]!r} has no {needed}, which driver {params['driver']!r} needs"
    if wrong:
        module.fail_json(msg=f"chain {params['name']!r}: {wrong}")
    if params["driver"] == "openstack":
        changes, diff = _openstack(module)
    else:
        gateway = Gateway(module)
        diff = getattr(gateway, params["state"])()
        changes = gateway.changes
    module.exit_json(changed=bool(changes), changes=changes, diff=diff)


if __name__ == "__main__":
    main()
