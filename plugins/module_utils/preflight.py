# SPDX-License-Identifier: Apache-2.0
"""Problems of the inventory and the machine that would make a run fail, found before anything is changed."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

CENTRE = "central"
REGION_CIDRS = ("region_lan_cidr", "region_pod_cidr", "region_service_cidr")
REGION_VARIABLES = (*REGION_CIDRS, "region_lan_gateway")
CAMERA_LOGIN = ("detector_rtsp_user", "detector_rtsp_password")
# Keys that the function that reports incidents needs for an account, by social network.
ACCOUNT_KEYS = {
    "bluesky": ("url", "handle", "password"),
    "mastodon": ("url", "access_token"),
    "twitter": ("consumer_key", "consumer_secret", "access_token", "access_token_secret"),
}
# Folders of the site's state whose files the run creates. People put their files in other folders.
MADE_FOLDERS = ("pki", "secrets")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Kernel features that hosts and clusters use, by configuration option.
_KERNEL_OPTIONS = {
    "CONFIG_OVERLAY_FS": "overlay",
    "CONFIG_BRIDGE": "bridge",
    "CONFIG_VETH": "veth",
    "CONFIG_VXLAN": "vxlan",
    "CONFIG_NF_TABLES": "nftables",
    "CONFIG_NF_CONNTRACK": "conntrack",
    "CONFIG_NET_NS": "network namespaces",
}
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Host:
    """A host of the inventory: its set ``variables``, and why those in ``failed`` have no value."""

    name: str
    groups: Sequence[str]
    variables: Mapping[str, str]
    failed: Mapping[str, str]

    @property
    def region(self) -> str:
        """Name of its region; empty for a host on the backbone."""
        return self.variables.get("region_name", "")


@dataclass(frozen=True)
class Function:
    """A function of the inventory's list: the structure of its secrets, without their contents.

    ``keys`` has the names of each secret's files, ``files`` those that are on the controller with their paths, and
    ``provider`` the social network of each secret that is an account of the function that reports incidents.
    """

    name: str
    regions: Sequence[str]
    keys: Mapping[str, Sequence[str]]
    files: Mapping[str, Mapping[str, str]]
    provider: Mapping[str, str]


@dataclass(frozen=True)
class Used:
    """A range of addresses that the machine uses, and what uses it."""

    cidr: str
    by: str


def check_inventory(
    *,
    site_name: str,
    driver: str,
    drivers: Sequence[str],
    backbone_cidr: str,
    hosts: Sequence[Host],
    package_sets: Sequence[str],
) -> list[str]:
    """Errors of the inventory alone; each names the variable, its value and the remedy."""
    errors = _check_names(site_name, hosts)
    if driver not in drivers:
        errors.append(f"site_driver: {driver!r} is not known; use one of: {', '.join(sorted(drivers))}")
    errors += _check_variables(hosts)
    errors += _check_regions(hosts)
    networks, found = _networks(backbone_cidr, hosts)
    errors += found
    for (name, cidr), (other_name, other) in combinations(networks.items(), 2):
        if cidr.version == other.version and cidr.overlaps(other):
            errors.append(f"{name} ({cidr}) overlaps {other_name} ({other}); give each its own range")
    errors += _check_addresses(hosts, networks if driver == "podman" else {})
    for name, chosen in _values(hosts, "host_base_package_set").items():
        if chosen not in package_sets:
            errors.append(
                f"host_base_package_set of {name}: the bundle has no packages {chosen!r}; "
                f"use one of: {', '.join(sorted(package_sets))}, or add bundle/apt/{chosen}.txt"
            )
    # Containers have the machine's clock.
    if driver != "podman" and not any(host.variables.get("host_base_ntp_servers") for host in hosts):
        errors.append(
            "host_base_ntp_servers is not set for any host: the site's clock would drift, and social networks refuse "
            "requests signed with a wrong time; set it to NTP servers that the centre's gateway host can reach"
        )
    return errors + _check_camera_logins(hosts)


def _check_camera_logins(hosts: Sequence[Host]) -> list[str]:
    """Hosts that follow cameras without a complete login. An empty user name means that cameras require none."""
    errors = []
    for host in hosts:
        user, password = CAMERA_LOGIN
        if "detector_cameras" not in host.variables or user in host.failed or password in host.failed:
            continue
        if user not in host.variables:
            errors.append(
                f"{user} of {host.name} is not set; set it and {password} to the cameras' login, "
                "or set it to '' if the cameras require none"
            )
        elif host.variables[user] and not host.variables.get(password):
            errors.append(f"{password} of {host.name} is not set, but {user} is; set it to the cameras' password")
    return errors


def check_functions(functions: Iterable[Function], hosts: Sequence[Host], folder: Path) -> list[str]:
    """Accounts with missing keys, and missing secret files that people must put below ``folder``."""
    edges = sorted({host.region for host in hosts if host.region} - {CENTRE})
    errors = []
    for function in functions:
        for secret, provider in function.provider.items():
            if provider not in ACCOUNT_KEYS:
                errors.append(
                    f"functions_list: {function.name}: provider of secret {secret} is {provider!r}; "
                    f"use one of: {', '.join(sorted(ACCOUNT_KEYS))}"
                )
                continue
            missing = [key for key in ACCOUNT_KEYS[provider] if key not in function.keys[secret]]
            if missing:
                errors.append(
                    f"functions_list: {function.name}: secret {secret} is an account of {provider} "
                    f"and has no {', '.join(missing)}; add them to secret_files"
                )
        for region in function.regions or edges:
            missing = [
                f"{path} ({reason})"
                for files in function.files.values()
                for path in (_given(folder, file.replace("{region}", region)) for file in files.values())
                if path and (reason := _unreadable(path))
            ]
            if missing:
                errors.append(
                    f"functions_list: {function.name} needs secret_files for {region}: {', '.join(missing)}; "
                    "put the key of the region's account into each"
                )
    return errors


def _given(folder: Path, file: str) -> Path | None:
    """The path of a file that people must provide; None for one that the run creates."""
    return None if Path(file).parts[:1] in [(name,) for name in MADE_FOLDERS] else folder / file


def _unreadable(path: Path) -> str:
    """Why a file has no usable content; empty if it has."""
    try:
        return "" if path.read_bytes().strip() else "it is empty"
    except FileNotFoundError:
        return "it does not exist"
    except OSError as error:
        return error.strerror or str(error)


def _values(hosts: Iterable[Host], variable: str) -> dict[str, str]:
    return {host.name: host.variables[variable] for host in hosts if variable in host.variables}


def _check_names(site_name: str, hosts: Sequence[Host]) -> list[str]:
    named = [("host", host.name) for host in hosts]
    named += [("region_name", region) for region in sorted({host.region for host in hosts} - {""})]
    errors = [
        f"{what}: {value!r} is not a DNS label; use at most 63 lower case letters, digits and hyphens"
        for what, value in named
        if not _LABEL.fullmatch(value)
    ]
    # A hyphen ends the site's name in resource names: site "a" must not remove resources of site "a-b".
    if not re.fullmatch(r"[a-z0-9]{1,20}", site_name):
        errors.insert(0, f"site_name: {site_name!r} is refused; use at most 20 lower case letters and digits")
    return errors


def _check_variables(hosts: Sequence[Host]) -> list[str]:
    """Required variables that hosts lack. A variable that a whole region lacks is reported once."""
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for host in hosts:
        wanted = ["ansible_host"]
        if "regions" in host.groups:
            wanted += ["region_name", *REGION_VARIABLES]
        if "nfv_gateways" in host.groups:
            wanted.append("backbone_address")
        for name in wanted:
            if name not in host.variables and name not in host.failed:
                missing[name, "is not set; set it in the region's or the host's variables"].append(host.name)
        for name, reason in host.failed.items():
            remedy = "put the cameras' login there" if name in CAMERA_LOGIN else "set the variables that it uses"
            missing[name, f"has no value: {reason}; {remedy}"].append(host.name)
    return [f"{name} of {', '.join(names)} {what}" for (name, what), names in missing.items()]


def _check_regions(hosts: Sequence[Host]) -> list[str]:
    errors = []
    regions: dict[str, list[Host]] = defaultdict(list)
    for host in hosts:
        if host.region:
            regions[host.region].append(host)
            if host.region not in host.groups:
                errors.append(
                    f"region_name of {host.name}: {host.region!r} is not one of its groups; "
                    "each region has its own group of the same name"
                )
    if CENTRE not in regions:
        errors.append(
            f"region_name: no host is in the region {CENTRE!r}; set it for one, "
            "or add the inventory that has it with another -i"
        )
    for region, members in regions.items():
        gateways = [host.name for host in members if "nfv_gateways" in host.groups]
        if not gateways:
            errors.append(f"region {region!r} has no host in the group nfv_gateways; add one")
        differing = {
            name: sorted(set(_values(members, name).values()))
            for name in REGION_VARIABLES
            if len(set(_values(members, name).values())) > 1
        }
        if len(gateways) > 1 or differing:
            reasons = [f"{name} is {' and '.join(values)}" for name, values in differing.items()]
            reasons += [f"gateways are {' and '.join(gateways)}"] if len(gateways) > 1 else []
            errors.append(
                f"region_name: {region!r} is the name of two regions ({'; '.join(reasons)}); give each its own"
            )
        planes = [host.name for host in members if "control_planes" in host.groups]
        if not planes:
            errors.append(f"region {region!r} has no host in the group control_planes; add one")
        elif len(planes) > 1:
            # Two lose their quorum with one host. No role can set up three or more yet.
            errors.append(
                f"region {region!r} has {len(planes)} hosts in the group control_planes ({', '.join(planes)}); "
                "a region has one: put the others into the group workers"
            )
    return errors


def _networks(backbone_cidr: str, hosts: Sequence[Host]) -> tuple[dict[str, _Network], list[str]]:
    """The site's networks by variable, and errors of those that are invalid."""
    texts = {"site_backbone_cidr": backbone_cidr}
    for host in hosts:
        if host.region:
            for name in REGION_CIDRS:
                if name in host.variables:
                    texts.setdefault(f"{name} of {host.region}", host.variables[name])
    networks: dict[str, _Network] = {}
    errors = []
    for name, text in texts.items():
        try:
            networks[name] = ipaddress.ip_network(text)
        except ValueError as error:
            errors.append(f"{name}: {text!r} is not a CIDR ({error}); write it as in 10.0.0.0/24")
    return networks, errors


def _check_addresses(hosts: Sequence[Host], networks: Mapping[str, _Network]) -> list[str]:
    """Addresses that two hosts share, and those outside ``networks``, if these are given."""
    errors = []
    holders: dict[str, list[str]] = defaultdict(list)
    for host in hosts:
        lan = f"region_lan_cidr of {host.region}" if host.region else "site_backbone_cidr"
        for variable, network in (("ansible_host", lan), ("backbone_address", "site_backbone_cidr")):
            address = host.variables.get(variable)
            if address is None:
                continue
            holders[address].append(host.name)
            errors += _outside(f"{variable} of {host.name}", address, network, networks)
    gateways = {host.region: host.variables.get("region_lan_gateway") for host in hosts if host.region}
    for region, gateway in gateways.items():
        if gateway is not None:
            errors += _outside(f"region_lan_gateway of {region}", gateway, f"region_lan_cidr of {region}", networks)
    for address, names in holders.items():
        if len(names) > 1:
            errors.append(f"ansible_host: {address} is the address of {' and '.join(names)}; give each its own")
    return errors


def _outside(what: str, address: str, network: str, networks: Mapping[str, _Network]) -> list[str]:
    if network not in networks:
        return []
    try:
        if ipaddress.ip_address(address) in networks[network]:
            return []
    except ValueError:
        return [f"{what}: {address!r} is not an address; write it as in 10.0.0.10"]
    return [f"{what}: {address} is not in {network} ({networks[network]}); use one from that range"]


def site_networks(backbone_cidr: str, hosts: Sequence[Host]) -> dict[str, _Network]:
    """The networks that hosts are attached to, by variable."""
    networks, _ = _networks(backbone_cidr, hosts)
    return {name: cidr for name, cidr in networks.items() if name.startswith(("site_backbone_cidr", "region_lan_cidr"))}


def check_addresses_free(networks: Mapping[str, _Network], used: Iterable[Used]) -> list[str]:
    """Networks of the site that the machine already uses, for example for another site."""
    errors = []
    for name, cidr in networks.items():
        for other in used:
            taken = ipaddress.ip_network(other.cidr, strict=False)
            if cidr.version == taken.version and cidr.overlaps(taken):
                errors.append(
                    f"{name} ({cidr}) overlaps {taken}, which {other.by} uses; "
                    "use other addresses (site_net), or remove what uses them"
                )
    return errors


def used_ranges(
    podman_networks: Iterable[Mapping[str, object]], routes: Iterable[Mapping[str, object]], own_prefix: str
) -> list[Used]:
    """Ranges that the machine uses, except networks whose name begins with ``own_prefix``.

    ``podman_networks`` is the output of ``podman network ls --format json``, ``routes`` that of ``ip -json route``.
    """
    used = []
    bridges = set()
    for network in podman_networks:
        bridges.add(network.get("network_interface"))
        name = str(network.get("name"))
        subnets = network.get("subnets") or []
        if not name.startswith(own_prefix) and isinstance(subnets, list):
            used += [Used(str(subnet["subnet"]), f"the podman network {name}") for subnet in subnets]
    for route in routes:
        to, device = str(route.get("dst")), route.get("dev")
        if to != "default" and device not in bridges:
            used.append(Used(to, f"the machine's interface {device}"))
    return used


def kernel_lacks(config: str) -> list[str]:
    """Features that a kernel of this configuration (``CONFIG_X=y`` lines) has neither built in nor as a module."""
    there = {line.partition("=")[0] for line in config.splitlines() if line.endswith(("=y", "=m"))}
    return [feature for option, feature in _KERNEL_OPTIONS.items() if option not in there]


def check_machine(
    *,
    architecture: str,
    system: str,
    uid: int,
    become: bool,
    programs: Mapping[str, bool],
    cgroup_controllers: set[str],
    kernel_config: str | None,
    memory_mb: int,
    memory_wanted_mb: int,
    disk_gb: float,
    disk_wanted_gb: int,
    disk_path: str,
) -> list[str]:
    """Errors of the machine that will run the hosts; each names what was found and the remedy.

    ``architecture`` is the kernel's name of the processor, ``system`` the distribution with its release as
    ``ID VERSION_ID`` of os-release(5). ``kernel_config`` is None if the kernel's configuration is unknown; it is not
    checked then.
    """
    errors = []
    if architecture != "x86_64":
        errors.append(f"the machine is {architecture}, and hosts run programs for x86_64 (amd64); use such a machine")
    if system != "debian 12":
        errors.append(f"the machine runs {system}, and hosts are built from Debian packages; use one with Debian 12")
    if uid != 0 and not become:
        errors.append(
            f"the run is by user id {uid}, who is not root and can't become root without a password; "
            "run it as root, or with --ask-become-pass"
        )
    if not programs["podman"] and not programs["apt-get"]:
        errors.append("podman is missing and there is no apt to install it; install podman 4.3 or newer")
    missing = {"cpu", "memory", "pids"} - cgroup_controllers
    if missing:
        errors.append(
            f"the kernel does not offer the cgroup controllers {', '.join(sorted(missing))} "
            "(see /proc/cgroups); boot with them enabled"
        )
    lacking = kernel_lacks(kernel_config) if kernel_config is not None else []
    if lacking:
        errors.append(f"the kernel is built without {', '.join(lacking)}; boot one that has them, such as Debian's")
    if memory_mb < memory_wanted_mb:
        errors.append(
            f"the machine has {memory_mb} MiB of memory, preflight_memory_mb asks for {memory_wanted_mb}; "
            "use a larger machine, or fewer regions and a lower preflight_memory_mb"
        )
    if disk_gb < disk_wanted_gb:
        errors.append(
            f"{disk_path} has {disk_gb:.0f} GiB free, preflight_disk_gb asks for {disk_wanted_gb}; "
            "free some space, or point preflight_disk_path at another disk"
        )
    return errors
