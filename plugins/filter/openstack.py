# SPDX-License-Identifier: Apache-2.0
"""The OpenStack resources that a site's inventory describes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError

_BACKBONE = "backbone"
# Host variables, without the role's prefix; the role's defaults apply if a host does not set them.
_HOST_SETTINGS = (
    "anti_affinity",
    "backbone_network",
    "cloud",
    "cores",
    "disk_gb",
    "dns_servers",
    "external_network",
    "floating_ip",
    "host_key",
    "image",
    "image_file",
    "memory_mb",
    "user_data",
    "volumes",
    "zone",
)


def openstack_clouds(
    hosts: Iterable[Mapping[str, Any]], groups: Mapping[str, Sequence[str]], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The wanted resources of each cloud, as the module ``openstack_site`` takes them.

    Args:
        hosts: the variables of each host of the site.
        groups: the inventory's groups.
        settings: variables of the role without its prefix, those of ``_HOST_SETTINGS`` as defaults, and ``site``,
            ``backbone_cidr``, ``public_key`` and ``chosen`` (the hosts that the run is about).

    Raises:
        AnsibleFilterError: the inventory is invalid; has all errors.
    """
    return _Inventory([_Host(host, settings) for host in hosts], groups, settings).clouds()


class _Host:
    def __init__(self, variables: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.name = str(variables["inventory_hostname"])
        self.address = str(variables.get("ansible_host", ""))
        self.user = str(variables.get("ansible_user", "root"))
        self.region = str(variables.get("region_name", "")) or _BACKBONE
        self.lan_cidr = str(variables.get("region_lan_cidr", "")) or str(settings["backbone_cidr"])
        self.lan_gateway = str(variables.get("region_lan_gateway", ""))
        self.pod_cidr = str(variables.get("region_pod_cidr", ""))
        self.backbone_address = str(variables.get("backbone_address", ""))
        for name in _HOST_SETTINGS:
            setattr(self, name, variables.get(f"provision_openstack_{name}", settings[name]))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class _Inventory:
    def __init__(self, hosts: list[_Host], groups: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> None:
        self.hosts = hosts
        self.groups = groups
        self.settings = settings
        self.prefix = str(settings["prefix"])
        self.chosen = set(settings["chosen"])
        self.errors: list[str] = []
        self.cidrs = {host.region: host.lan_cidr for host in hosts}

    def clouds(self) -> list[dict[str, Any]]:
        self._check()
        if self.errors:
            raise AnsibleFilterError(
                "The inventory is invalid. Fix these problems first:\n- " + "\n- ".join(self.errors)
            )
        whole = self.chosen >= {host.name for host in self.hosts}
        names = sorted({h.cloud for h in self.hosts if whole or h.name in self.chosen})
        if whole:
            names += sorted(set(self.settings["more_clouds"]) - set(names))
        return [self._cloud(name, whole) for name in names]

    def _check(self) -> None:
        if not self.settings["controllers"] and any("controllers" in flow["from"] for flow in self.settings["flows"]):
            self.errors.append(
                "provision_openstack_controllers is empty, so the hosts cannot be reached by SSH: set it to the CIDRs"
                " from which the controller connects"
            )
        taken: dict[tuple[str, str], str] = {}
        for host in self.hosts:
            if not host.cloud:
                self.errors.append(
                    f"provision_openstack_cloud of host {host.name} is empty: set it to a cloud in clouds.yaml"
                )
            places = [("ansible_host", host.address, host.lan_cidr)]
            if host.backbone_address:
                places.append(("backbone_address", host.backbone_address, str(self.settings["backbone_cidr"])))
            for variable, address, cidr in places:
                try:
                    inside = ipaddress.ip_address(address) in ipaddress.ip_network(cidr)
                except ValueError as error:
                    self.errors.append(f"{variable} of host {host.name}: {error}; set it to an address in {cidr}")
                    continue
                if not inside:
                    self.errors.append(
                        f"{variable} of host {host.name}, {address}, is not in {cidr}: use an address of that range"
                    )
                other = taken.setdefault((cidr, address), host.name)
                if other != host.name:
                    self.errors.append(f"hosts {other} and {host.name} have the address {address}: change one")
                if host.external_network and variable == "ansible_host" and address == _first(cidr):
                    self.errors.append(
                        f"host {host.name} has the address {address}, which the router to {host.external_network}"
                        " uses: give the host another"
                    )
            if host.floating_ip and not host.external_network:
                self.errors.append(
                    f"host {host.name} needs a floating IP: name the network that provides it in"
                    " provision_openstack_external_network"
                )
        on_backbone = [h for h in self.hosts if h.backbone_address or h.region == _BACKBONE]
        makers = sorted({h.cloud for h in on_backbone if not h.backbone_network})
        if len(makers) > 1:
            self.errors.append(
                f"the backbone spans the clouds {', '.join(makers)}: name the network that joins them in"
                " provision_openstack_backbone_network"
            )

    def _cloud(self, name: str, whole: bool) -> dict[str, Any]:
        here = [h for h in self.hosts if h.cloud == name]
        regions = {h.region for h in here if whole or h.name in self.chosen}
        here = [h for h in here if h.region in regions]
        groups: dict[str, dict[str, Any]] = {}
        servers = [self._server(host, groups) for host in here]
        images = {host.image: {"name": host.image, "file": host.image_file} for host in here}
        return {
            "cloud": name,
            "whole": whole,
            "key_pair": self.prefix,
            "public_key": self.settings["public_key"],
            "images": [images[image] for image in sorted(images)],
            "networks": self._networks(here),
            "security_groups": [groups[group] for group in sorted(groups)],
            "server_groups": [
                {"name": server["group"], "policy": host.anti_affinity}
                for host, server in _first_of_each_group(zip(here, servers, strict=True))
            ],
            "servers": servers,
        }

    def _networks(self, here: list[_Host]) -> list[dict[str, Any]]:
        networks = {}
        for host in here:
            if host.region != _BACKBONE:
                external = host.external_network or ""
                networks[host.region] = {
                    "name": f"{self.prefix}-{host.region}",
                    "cidr": host.lan_cidr,
                    # Until a host has its own routes, it uses the router, or else the region's gateway host.
                    "gateway": _first(host.lan_cidr) if external else host.lan_gateway or None,
                    "dns": list(host.dns_servers),
                    "pool": _pool(host.lan_cidr),
                    "external": external,
                }
            if (host.backbone_address or host.region == _BACKBONE) and not host.backbone_network:
                networks[_BACKBONE] = {
                    "name": f"{self.prefix}-{_BACKBONE}",
                    "cidr": str(self.settings["backbone_cidr"]),
                    "gateway": None,
                    "dns": [],
                    "pool": _pool(str(self.settings["backbone_cidr"])),
                    "external": "",
                }
        return [networks[name] for name in sorted(networks)]

    def _server(self, host: _Host, security_groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
        for group in self._security_groups(host):
            security_groups[group["name"]] = group
        is_gateway = host.name in self.groups.get(self.settings["gateways_group"], ())
        is_node = host.name in self.groups.get(self.settings["nodes_group"], ())
        allowed = [host.pod_cidr] if is_node and host.pod_cidr else []
        name = f"{self.prefix}-{host.name}"
        backbone = host.backbone_network or f"{self.prefix}-{_BACKBONE}"
        names = [group["name"] for group in self._security_groups(host)]
        ports = [
            {
                "name": name,
                "network": backbone if host.region == _BACKBONE else f"{self.prefix}-{host.region}",
                "address": host.address,
                # A gateway forwards packets of other hosts.
                "allowed": ["0.0.0.0/0"] if is_gateway else allowed,
                "security_groups": names,
            }
        ]
        if host.backbone_address:
            ports.append(
                {
                    "name": f"{name}-{_BACKBONE}",
                    "network": backbone,
                    "address": host.backbone_address,
                    "allowed": [host.lan_cidr] if is_gateway else [],
                    "security_groups": names,
                }
            )
        apart = host.name in self.groups.get(self.settings["control_planes_group"], ())
        return {
            "host": host.name,
            "name": name,
            "chosen": host.name in self.chosen,
            "image": host.image,
            "cores": int(host.cores),
            "memory_mb": int(host.memory_mb),
            "disk_gb": int(host.disk_gb),
            "zone": host.zone,
            "group": f"koren.faas:{self.settings['site']}:{host.region}-control-planes" if apart else "",
            "user_data": self._user_data(host),
            "ports": ports,
            "floating_ip": host.floating_ip,
            "external": host.external_network,
            "host_key": host.host_key,
            "volumes": [
                {"name": f"{name}-{volume['name']}", "size_gb": int(volume["size_gb"]), "zone": host.zone}
                for volume in host.volumes
            ],
        }

    def _user_data(self, host: _Host) -> str:
        data: dict[str, Any] = {
            "hostname": host.name,
            "preserve_hostname": False,
            "ssh_pwauth": False,
            # The controller reads the key there, so it can verify the host from the first connection on.
            "ssh": {"emit_keys_to_console": True},
        }
        if host.user == "root":
            data |= {"disable_root": False}
        else:
            data["users"] = [
                {
                    "name": host.user,
                    "shell": "/bin/bash",
                    "sudo": "ALL=(ALL) NOPASSWD:ALL",
                    "lock_passwd": True,
                    "ssh_authorized_keys": [self.settings["public_key"]],
                }
            ]
        return "#cloud-config\n" + yaml.safe_dump(data | dict(host.user_data), sort_keys=True)

    def _security_groups(self, host: _Host) -> list[dict[str, Any]]:
        """The security groups of a host: one for each of its inventory groups that a flow goes to."""
        rules: dict[str, list[dict[str, Any]]] = {}
        for flow in self.settings["flows"]:
            if flow.get("in", host.region) != host.region:
                continue
            for group in flow["to"]:
                if host.name in self.groups.get(group, ()):
                    rules.setdefault(group, []).extend(self._rules(flow, host))
        return [{"name": f"{self.prefix}-{host.region}-{group}", "rules": rules[group]} for group in sorted(rules)]

    def _rules(self, flow: Mapping[str, Any], host: _Host) -> list[dict[str, Any]]:
        ports = [str(port).partition("-") for port in flow.get("ports") or [""]]
        return [
            {
                "protocol": None if flow["protocol"] == "any" else flow["protocol"],
                "first_port": int(first) if first else None,
                "last_port": int(last or first) if first else None,
                "cidr": cidr,
            }
            for source in flow["from"]
            for cidr in self._sources(source, host)
            for first, _, last in ports
        ]

    def _sources(self, source: str, host: _Host) -> list[str]:
        match source:
            case "controllers":
                return list(self.settings["controllers"])
            case "region":
                return [host.lan_cidr]
            case "regions":
                return sorted(cidr for region, cidr in self.cidrs.items() if region != _BACKBONE)
            case "backbone":
                return [str(self.settings["backbone_cidr"])]
        if source in self.cidrs:
            return [self.cidrs[source]]
        if "/" in source:
            return [source]
        return [f"{h.address}/32" for h in self.hosts if h.name in self.groups.get(source, ())]


def _first_of_each_group(pairs: Iterable[tuple[_Host, dict[str, Any]]]) -> list[tuple[_Host, dict[str, Any]]]:
    groups: dict[str, tuple[_Host, dict[str, Any]]] = {}
    for host, server in pairs:
        if server["group"]:
            groups.setdefault(server["group"], (host, server))
    return [groups[name] for name in sorted(groups)]


def _first(cidr: str) -> str:
    return str(next(ipaddress.ip_network(cidr).hosts()))


def _pool(cidr: str) -> list[str]:
    """First and last address of the last quarter of a range, which is reserved for the cloud's own ports."""
    network = ipaddress.ip_network(cidr)
    return [str(network[network.num_addresses * 3 // 4]), str(network[-2])]


class FilterModule:
    """Filters of the collection that read an inventory for OpenStack."""

    def filters(self) -> dict[str, Any]:
        """Names to functions."""
        return {"openstack_clouds": openstack_clouds}
