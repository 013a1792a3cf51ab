# SPDX-License-Identifier: Apache-2.0
"""A site's resources in one OpenStack cloud: reads what exists, and carries out a plan."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible_collections.koren.faas.plugins.module_utils.openstack.departure import departure
from ansible_collections.koren.faas.plugins.module_utils.openstack.known_hosts import console_key
from ansible_collections.koren.faas.plugins.module_utils.openstack.ownership import find_port, mark, owned
from ansible_collections.koren.faas.plugins.module_utils.openstack.plan import plan
from ansible_collections.koren.faas.plugins.module_utils.openstack.quotas import exceeded, needs
from ansible_collections.koren.faas.plugins.module_utils.openstack.security_groups import rule_parts, surplus_rules
from ansible_collections.koren.faas.plugins.module_utils.openstack.servers import size
from ansible_collections.koren.faas.plugins.module_utils.openstack.steps import Plan, Step, Thing
from ansible_collections.koren.faas.plugins.module_utils.service_chain import (
    Objects,
    Realisation,
    Sfc,
    chains_through,
    read,
)

try:
    import keystoneauth1.exceptions

    import openstack
    import openstack.exceptions
except ImportError:
    openstack = None  # type: ignore[assignment]

HAVE_LIBRARY = openstack is not None

_VOLUME_TYPES = {"block-storage", "block-store", "volume", "volumev2", "volumev3"}
_NETWORK_KINDS = ("router", "security_group", "port", "subnet")


class CloudError(Exception):
    """An error of a cloud; the text names the cloud."""


@contextmanager
def _told(cloud: str, doing: str) -> Iterator[None]:
    """Turn exceptions of the libraries into a CloudError that says what was being done."""
    try:
        yield
    except openstack.exceptions.ConfigException as error:
        raise CloudError(
            f"cloud {cloud}: {str(error).rstrip('.')}; add it to clouds.yaml"
            " (./, ~/.config/openstack/, /etc/openstack/, or the file that OS_CLIENT_CONFIG_FILE names)"
        ) from error
    except (keystoneauth1.exceptions.Unauthorized, keystoneauth1.exceptions.MissingRequiredOptions) as error:
        raise CloudError(f"cloud {cloud}: it refuses the credentials in clouds.yaml ({error}); correct them") from error
    except (keystoneauth1.exceptions.ConnectFailure, keystoneauth1.exceptions.DiscoveryFailure) as error:
        raise CloudError(f"cloud {cloud} does not answer: {error}") from error
    except (openstack.exceptions.SDKException, keystoneauth1.exceptions.ClientException) as error:
        raise CloudError(f"cloud {cloud}, {doing}: {error}") from error


class Cloud:
    """One cloud of a site.

    Args:
        site: name of the site.
        wanted: the site's resources in this cloud, as for ``plan.plan``, with ``cloud``, its name in clouds.yaml.
        timeout_s: how long the creation or removal of one object may take.
    """

    def __init__(self, site: str, wanted: Thing, timeout_s: float) -> None:
        self.site = site
        self.wanted = wanted
        self.name = str(wanted["cloud"])
        self.timeout_s = timeout_s
        self.found: dict[str, list[dict[str, Any]]] = {}
        self.plan = Plan()
        self.done: list[Step] = []

    # Reading

    def look(self, *, prune: bool, leaving: Sequence[str] | None = None) -> None:
        """Read what exists and make the plan: to make it match what is wanted, or to remove the servers ``leaving``."""
        with _told(self.name, "reading what exists"):
            self.api: Any = openstack.connect(cloud=self.name)
            self.project = self.api.current_project_id
            self._read()
            if leaving is not None:
                if "volume" in self.found:
                    self._keep("snapshot", self.api.block_storage.snapshots(details=False))
                self.plan = departure(self.site, self.wanted, self.found, leaving)
            else:
                self.plan = plan(self.site, self.wanted, self.found, prune=prune)
            needed = needs(self.plan.steps)
            if needed:
                self.plan.errors += exceeded(needed, self._free())
        self.plan.errors += [
            f"image {step.name}: the file {step.wanted['file']} to upload does not exist"
            for step in self.plan.steps
            if step.kind == "image" and step.verb == "create" and not Path(step.wanted["file"]).is_file()
        ]
        self.plan.errors = [f"cloud {self.name}: {error}" for error in self.plan.errors]

    def _read(self) -> None:
        servers = self.wanted["servers"]
        compute, network = self.api.compute, self.api.network
        self._keep("key_pair", compute.keypairs())
        self._keep("server_group", compute.server_groups())
        self._keep("server", compute.servers(details=True))
        self._keep("network", network.networks())
        self._keep("floating_ip", network.ips(project_id=self.project))
        for kind in _NETWORK_KINDS:
            self._keep(kind, getattr(network, f"{kind}s")(project_id=self.project))
        self._keep("image", self.api.image.images())
        if servers:
            self._keep("flavor", compute.flavors(details=True))
        if any(server["zone"] for server in servers):
            self._keep("zone", compute.availability_zones())
        # The library's own has_service() writes to stderr if there is none.
        if _VOLUME_TYPES & {service["type"] for service in self.api.service_catalog}:
            self._keep("volume", self.api.block_storage.volumes(details=True))
        elif any(server["volumes"] for server in servers):
            hosts = ", ".join(sorted(server["host"] for server in servers if server["volumes"]))
            raise CloudError(f"cloud {self.name} offers no volumes, but these hosts need some: {hosts}")

    def _keep(self, kind: str, things: Any) -> None:
        self.found[kind] = [thing.to_dict(computed=False) for thing in things]

    def _free(self) -> dict[str, int]:
        """The remaining amounts of the project's quotas; unlimited ones are left out."""
        limits = self.api.compute.get_limits().absolute
        pairs = {
            "instances": (limits.instances, limits.instances_used),
            "cores": (limits.total_cores, limits.total_cores_used),
            "ram": (limits.total_ram, limits.total_ram_used),
            "server_groups": (limits.server_groups, limits.server_groups_used),
        }
        details = self.api.network.get_quota(self.project, details=True)
        for name in (
            "networks",
            "subnets",
            "ports",
            "routers",
            "floating_ips",
            "security_groups",
            "security_group_rules",
        ):
            quota = getattr(details, name) or {}
            pairs[name] = (quota.get("limit"), (quota.get("used") or 0) + (quota.get("reserved") or 0))
        if "volume" in self.found:
            volumes = self.api.block_storage.get_limits().absolute
            pairs["volumes"] = (volumes.max_total_volumes, volumes.total_volumes_used)
            pairs["gigabytes"] = (volumes.max_total_volume_gigabytes, volumes.total_gigabytes_used)
        return {name: limit - (used or 0) for name, (limit, used) in pairs.items() if limit is not None and limit >= 0}

    def servers(self) -> list[dict[str, Any]]:
        """The chosen servers: host, name, cloud, id, status, floating_ip, addresses (floating IP last), host_key."""
        there = {s["name"]: s for s in self.found["server"] if owned("server", s, self.site, "")}
        floating = {f["port_id"]: f["floating_ip_address"] for f in self.found["floating_ip"] if f.get("port_id")}
        return [
            {
                "host": wanted["host"],
                "name": wanted["name"],
                "cloud": self.name,
                "id": there[wanted["name"]]["id"],
                "status": there[wanted["name"]]["status"],
                "floating_ip": address,
                "addresses": [wanted["ports"][0]["address"], *([address] if address else [])],
                "host_key": wanted.get("host_key") or "",
            }
            for wanted in self.wanted["servers"]
            if wanted["chosen"] and wanted["name"] in there
            for port in [find_port(self.found, wanted["ports"][0], self.site) or {}]
            for address in [floating.get(port.get("id"), "")]
        ]

    # Changing

    def apply(self) -> None:
        """Carry out the plan's steps, and wait until every chosen server runs."""
        creates = [s for s in self.plan.steps if s.verb != "delete"]
        servers = [s for s in creates if s.kind == "server" and s.verb == "create"]
        for step in creates:
            if step.kind != "floating_ip" and (step.kind, step.verb) != ("server", "update"):
                self._take(step)
        self._wait_for_servers({s.name for s in servers})
        for step in servers:
            self._attach(step.wanted)
        for step in creates:
            if step.kind == "floating_ip" or (step.kind, step.verb) == ("server", "update"):
                self._take(step)
        self._remove([s for s in self.plan.steps if s.verb == "delete"])
        if self.done:
            with _told(self.name, "reading the result"):
                self._keep("server", self.api.compute.servers(details=True))
                self._keep("port", self.api.network.ports(project_id=self.project))
                self._keep("floating_ip", self.api.network.ips(project_id=self.project))

    def _take(self, step: Step) -> None:
        with _told(self.name, str(step)):
            method: Callable[[Step], None] = getattr(self, f"_{step.verb}_{step.kind}")
            method(step)
        self.done.append(step)

    def _id(self, kind: str, name: str) -> str:
        """The ID of the site's object of this name, or else of any object with this name or ID."""
        named = [t for t in self.found[kind] if name in (t["name"], t["id"])]
        named.sort(key=lambda t: not owned(kind, t, self.site, ""))
        return str(named[0]["id"])

    def _port_id(self, port: Thing) -> str:
        there = find_port(self.found, port, self.site)
        if there is None:
            raise CloudError(f"cloud {self.name}: port {port['name']} disappeared during the run; run it again")
        return str(there["id"])

    def _add(self, kind: str, thing: Any) -> dict[str, Any]:
        made: dict[str, Any] = thing.to_dict(computed=False)
        self.found[kind].append(made)
        return made

    @property
    def _mark(self) -> dict[str, str]:
        return {"description": mark(self.site)}

    def _create_key_pair(self, step: Step) -> None:
        try:
            self.api.compute.create_keypair(**step.wanted)
        except openstack.exceptions.ConflictException:
            # Key pairs belong to a user, and two clouds in clouds.yaml may be two projects of one user.
            there = self.api.compute.get_keypair(step.name)
            if there.public_key.split()[:2] != step.wanted["public_key"].split()[:2]:
                raise

    def _create_image(self, step: Step) -> None:
        if step.found:
            self.api.image.delete_image(step.found["id"])
            self.found["image"] = [i for i in self.found["image"] if i["id"] != step.found["id"]]
        with Path(step.wanted["file"]).open("rb") as stream:
            qcow2 = stream.read(4) == b"QFI\xfb"
        image = self.api.image.create_image(
            step.name,
            filename=step.wanted["file"],
            disk_format="qcow2" if qcow2 else "raw",
            container_format="bare",
            visibility="private",
            meta={"koren_site": self.site},
            wait=True,
            timeout=3600,
        )
        self._add("image", image)

    def _create_server_group(self, step: Step) -> None:
        group = self.api.compute.create_server_group(name=step.name, policies=[step.wanted["policy"]])
        self._add("server_group", group)

    def _create_network(self, step: Step) -> None:
        self._add("network", self.api.network.create_network(name=step.name, **self._mark))
        self._create_subnet(step)

    def _create_subnet(self, step: Step) -> None:
        wanted = step.wanted
        self._add(
            "subnet",
            self.api.network.create_subnet(
                name=step.name,
                network_id=self._id("network", step.name),
                ip_version=4,
                cidr=wanted["cidr"],
                gateway_ip=wanted.get("gateway"),
                dns_nameservers=wanted.get("dns") or [],
                allocation_pools=[{"start": wanted["pool"][0], "end": wanted["pool"][1]}],
                **self._mark,
            ),
        )

    def _update_network(self, step: Step) -> None:
        if "subnet" in step.after:
            return self._create_subnet(step)
        names = {"gateway": "gateway_ip", "dns": "dns_nameservers"}
        self.api.network.update_subnet(
            step.found["subnet"]["id"], **{names[key]: value for key, value in step.after.items()}
        )

    def _create_router(self, step: Step) -> None:
        router = self.api.network.create_router(
            name=step.name,
            external_gateway_info={"network_id": self._id("network", step.wanted["external"])},
            **self._mark,
        )
        self._add("router", router)
        self.api.network.add_interface_to_router(router.id, subnet=self._subnet(step.wanted["network"])["id"])

    def _update_router(self, step: Step) -> None:
        if "external" in step.after:
            self.api.network.update_router(
                step.found["id"],
                external_gateway_info={"network_id": self._id("network", step.wanted["external"])},
            )
        if "network" in step.after:
            subnet = self._subnet(step.wanted["network"])
            self.api.network.add_interface_to_router(step.found["id"], subnet=subnet["id"])

    def _subnet(self, network: str) -> dict[str, Any]:
        network_id = self._id("network", network)
        return next(s for s in self.found["subnet"] if s["network_id"] == network_id)

    def _create_security_group(self, step: Step) -> None:
        group = self.api.network.create_security_group(name=step.name, **self._mark)
        self._add("security_group", group)
        self._add_rules(group.id, step.after["rules"])

    def _update_security_group(self, step: Step) -> None:
        self._add_rules(step.found["id"], set(step.after["rules"]) - set(step.before["rules"]))
        for rule in surplus_rules(step.found, step.after["rules"]):
            self.api.network.delete_security_group_rule(rule)

    def _add_rules(self, group: str, rules: Any) -> None:
        if rules:
            self.api.network.create_security_group_rules(
                [{"security_group_id": group, **rule_parts(rule)} for rule in sorted(rules)]
            )

    def _port_fields(self, step: Step) -> dict[str, Any]:
        return {
            "security_groups": [self._id("security_group", name) for name in step.wanted["security_groups"]],
            "allowed_address_pairs": [{"ip_address": cidr} for cidr in step.wanted["allowed"]],
            "fixed_ips": [{"ip_address": step.wanted["address"]}],
        }

    def _create_port(self, step: Step) -> None:
        network = self._id("network", step.wanted["network"])
        fields = self._port_fields(step)
        try:
            port = self.api.network.create_port(name=step.name, network_id=network, **fields, **self._mark)
        except openstack.exceptions.ForbiddenException as error:
            raise CloudError(
                f"cloud {self.name}: network {step.wanted['network']} does not let this project choose the address"
                f" {step.wanted['address']}; ask its owner to create a port with that address in this project"
            ) from error
        self._add("port", port)

    def _update_port(self, step: Step) -> None:
        names = {"address": "fixed_ips", "groups": "security_groups", "allowed": "allowed_address_pairs"}
        fields = self._port_fields(step)
        self.api.network.update_port(step.found["id"], **{names[key]: fields[names[key]] for key in step.after})

    def _create_volume(self, step: Step) -> None:
        storage = self.api.block_storage
        zone = {"availability_zone": step.wanted["zone"]} if step.wanted.get("zone") else {}
        volume = storage.create_volume(
            name=step.name, size=step.wanted["size_gb"], metadata={"koren_site": self.site}, **zone
        )
        storage.wait_for_status(volume, "available", ["error"], interval=1, wait=self.timeout_s)
        self._add("volume", volume)

    def _update_volume(self, step: Step) -> None:
        self.api.block_storage.extend_volume(step.found["id"], step.wanted["size_gb"])

    def _create_server(self, step: Step) -> None:
        wanted = step.wanted
        if step.found:
            self.api.compute.delete_server(step.found["id"])
            self._wait_until_gone([step.found["id"]])
        optional: dict[str, Any] = {}
        if wanted["zone"]:
            optional["availability_zone"] = wanted["zone"]
        if wanted["group"]:
            optional["scheduler_hints"] = {"group": self._id("server_group", wanted["group"])}
        server = self.api.compute.create_server(
            name=step.name,
            image_id=self._id("image", wanted["image"]),
            flavor_id=wanted["flavor"]["id"],
            key_name=self.wanted["key_pair"],
            # With a config drive, a server needs no metadata service for its addresses and user data.
            config_drive=True,
            user_data=base64.b64encode(wanted["user_data"].encode()).decode(),
            networks=[{"port": self._port_id(port)} for port in wanted["ports"]],
            metadata={"koren_site": self.site, "koren_size": size(wanted)},
            **optional,
        )
        self._add("server", server)

    def _wait_for_servers(self, made: set[str]) -> None:
        """Wait until the chosen servers that were created, or were found in creation, run."""
        chosen = {s["name"] for s in self.wanted["servers"] if s["chosen"]}
        waiting = made | {s["name"] for s in self.found["server"] if s["name"] in chosen and s["status"] == "BUILD"}
        end = time.monotonic() + self.timeout_s
        while waiting:
            with _told(self.name, "waiting for servers"):
                self._keep("server", self.api.compute.servers(details=True))
            there = {s["name"]: s for s in self.found["server"] if owned("server", s, self.site, "")}
            broken = sorted(name for name in waiting if there.get(name, {}).get("status") == "ERROR")
            if broken:
                reasons = [f"{n}: {(there[n].get('fault') or {}).get('message', 'no reason given')}" for n in broken]
                raise CloudError(f"cloud {self.name}: servers did not start: {'; '.join(reasons)}")
            waiting = {name for name in waiting if there.get(name, {}).get("status") != "ACTIVE"}
            if waiting and time.monotonic() > end:
                raise CloudError(
                    f"cloud {self.name}: servers do not run after {self.timeout_s:.0f} s: {', '.join(sorted(waiting))}"
                )
            time.sleep(0.5 if waiting else 0)

    def _attach(self, wanted: Thing) -> None:
        server = next(s for s in self.found["server"] if s["name"] == wanted["name"])
        held = {v["id"] for v in server.get("attached_volumes") or ()}
        for volume in wanted["volumes"]:
            volume_id = self._id("volume", volume["name"])
            if volume_id not in held:
                with _told(self.name, f"attaching volume {volume['name']}"):
                    self.api.compute.create_volume_attachment(server["id"], volume_id=volume_id)

    def _update_server(self, step: Step) -> None:
        compute, server = self.api.compute, step.found["id"]
        for port in step.wanted["ports"]:
            if port["name"] in step.after.get("attached", ()):
                compute.create_server_interface(server, port_id=self._port_id(port))
        self._attach(step.wanted)
        if "stopped" in step.after:
            compute.start_server(server)
            self._wait_for_status(server, "ACTIVE")
        if "resized, not confirmed" in step.after:
            compute.confirm_server_resize(server)
            self._wait_for_status(server, "ACTIVE")
        if "flavor" in step.after:
            compute.resize_server(server, step.wanted["flavor"]["id"])
            self._wait_for_status(server, "VERIFY_RESIZE")
            compute.confirm_server_resize(server)
            self._wait_for_status(server, "ACTIVE")
        if "size" in step.after:
            compute.set_server_metadata(server, koren_size=size(step.wanted))

    def _wait_for_status(self, server: str, status: str) -> None:
        compute = self.api.compute
        compute.wait_for_server(compute.get_server(server), status, interval=1, wait=int(self.timeout_s))

    def _create_floating_ip(self, step: Step) -> None:
        self.api.network.create_ip(
            floating_network_id=self._id("network", step.wanted["external"]),
            port_id=self._port_id(step.wanted["ports"][0]),
            **self._mark,
        )

    def _update_floating_ip(self, step: Step) -> None:
        port = self._port_id(step.wanted["ports"][0])
        self.api.network.update_ip(step.found["id"], port_id=port)

    # Removing

    def _remove(self, steps: Sequence[Step]) -> None:
        servers = [step.found["id"] for step in steps if step.kind == "server"]
        with _told(self.name, "removing servers"):
            for server in servers:
                self.api.compute.delete_server(server)
            self._wait_until_gone(servers)
        self.done += [step for step in steps if step.kind == "server"]
        for step in steps:
            if step.kind != "server":
                self._take(step)

    def _wait_until_gone(self, servers: Sequence[str]) -> None:
        end = time.monotonic() + self.timeout_s
        left = set(servers)
        while left:
            left &= {server.id for server in self.api.compute.servers(details=False)}
            if left and time.monotonic() > end:
                raise CloudError(f"cloud {self.name}: servers still exist after {self.timeout_s:.0f} s: {left}")
            time.sleep(0.5 if left else 0)

    def _delete_key_pair(self, step: Step) -> None:
        self.api.compute.delete_keypair(step.name, ignore_missing=True)

    def _delete_image(self, step: Step) -> None:
        self.api.image.delete_image(step.found["id"])

    def _delete_server_group(self, step: Step) -> None:
        self.api.compute.delete_server_group(step.found["id"])

    def _delete_network(self, step: Step) -> None:
        self.api.network.delete_network(step.found["id"])

    def _delete_router(self, step: Step) -> None:
        for port in self.found["port"]:
            if port.get("device_id") == step.found["id"] and port.get("device_owner") == "network:router_interface":
                self.api.network.remove_interface_from_router(step.found["id"], port=port["id"])
        self.api.network.delete_router(step.found["id"])

    def _delete_security_group(self, step: Step) -> None:
        self.api.network.delete_security_group(step.found["id"])

    def _delete_port(self, step: Step) -> None:
        # Neutron does not delete a port that a service chain uses.
        if self._chains:
            for name in chains_through(self._chains, step.found["id"]):
                Realisation(Sfc(self.api.network), self._chains, name, check=False).absent()
        self.api.network.delete_port(step.found["id"])

    @cached_property
    def _chains(self) -> Objects | None:
        """The cloud's service chain objects; None if it does not support service chains."""
        return read(Sfc(self.api.network)) if self.api.network.find_extension("sfc") else None

    def _delete_volume(self, step: Step) -> None:
        storage = self.api.block_storage
        # Read first, because the object may disappear as soon as its removal is requested.
        volume = storage.get_volume(step.found["id"])
        storage.delete_volume(volume)
        storage.wait_for_delete(volume, interval=1, wait=int(self.timeout_s))

    def _delete_floating_ip(self, step: Step) -> None:
        self.api.network.delete_ip(step.found["id"])


def read_host_keys(
    clouds: Sequence[Cloud], servers: Sequence[dict[str, Any]], known: Mapping[str, Any], wait_s: float
) -> None:
    """Set ``host_key`` of each server, from the inventory, the known keys, or the console.

    Raises:
        CloudError: a console shows no key in time.
    """
    api = {cloud.name: cloud for cloud in clouds}
    missing = []
    for server in servers:
        key, server_id = known.get(server["addresses"][0], ("", ""))
        if not server["host_key"] and server_id == server["id"]:
            server["host_key"] = key
        if not server["host_key"]:
            missing.append(server)
    end = time.monotonic() + wait_s
    while missing:
        for server in missing:
            with _told(server["cloud"], f"reading the console of {server['name']}"):
                output = api[server["cloud"]].api.compute.get_server_console_output(server["id"])
            server["host_key"] = console_key(output["output"] or "")
        missing = [server for server in missing if not server["host_key"]]
        if missing and time.monotonic() > end:
            raise CloudError(
                f"no Ed25519 host key on the console after {wait_s:.0f} s: "
                + ", ".join(server["name"] for server in missing)
                + "; with an image without cloud-init, set provision_openstack_host_key for each host"
            )
        time.sleep(1 if missing else 0)
