#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The scenario's real OpenStack: Keystone, Glance, Placement, Neutron with networking-sfc, Cinder, Nova.

All of it from wheels, on sqlite and the message bus inside a process: no broker, no database server, no agent. One
process a project; Nova's and Cinder's services are threads of one each. Not real are Nova's guests (the fake
hypervisor), Neutron's packets and Cinder's disks: ports are bound, and volumes made, by drivers of ten lines. What a
guest writes on its console is read from ``<state>/consoles/<server's name>``.

    lab.py up        makes and starts it; writes <state>/etc/clouds.yaml
    lab.py down      ends its processes

Environment: LAB_STATE (folder of its state), LAB_HOST (address of this machine's loopback that it listens on).
"""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = Path(os.environ.get("LAB_STATE", "state")).resolve()
HOST = os.environ.get("LAB_HOST", "127.0.0.1")
PASSWORD = "lab"
REGION = "RegionOne"
PORTS = {"keystone": 5000, "glance": 9292, "placement": 8778, "neutron": 9696, "nova": 8774, "cinder": 8776}
PATHS = {"nova": "/v2.1", "cinder": "/v3"}
BIN = Path(sys.executable).parent
ETC = Path(sys.prefix) / "etc"
AUTH_URL = f"http://{HOST}:{PORTS['keystone']}/v3"

AUTH = f"""
auth_type = password
auth_url = {AUTH_URL}
username = service
password = {PASSWORD}
project_name = service
user_domain_name = Default
project_domain_name = Default
region_name = {REGION}
"""


def _connection(name: str) -> str:
    return f"sqlite:///{STATE}/db/{name}.sqlite?timeout=60"


def _database(name: str, section: str = "database") -> str:
    return f"[{section}]\nconnection = {_connection(name)}\nsqlite_synchronous = false\n"


TOKENS = f"""
[keystone_authtoken]
www_authenticate_uri = {AUTH_URL}
service_token_roles_required = true
{AUTH}
"""

COMMON = f"""
[DEFAULT]
transport_url = fake://
use_stderr = true
[oslo_messaging_notifications]
driver = noop
[oslo_concurrency]
lock_path = {STATE}/lock
"""

SETTINGS = {
    "keystone/keystone.conf": f"""
[DEFAULT]
use_stderr = true
{_database("keystone")}
[oslo_messaging_notifications]
driver = noop
[identity]
password_hash_rounds = 4
[token]
provider = fernet
[fernet_tokens]
key_repository = {STATE}/fernet
[credential]
key_repository = {STATE}/credential
""",
    "glance/glance-api.conf": f"""
{COMMON}
[DEFAULT]
enabled_backends = fs:file
node_staging_uri = file://{STATE}/staging
image_cache_dir = {STATE}/image-cache
worker_self_reference_url = http://{HOST}:{PORTS["glance"]}
{_database("glance")}
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {STATE}/images
[os_glance_staging_store]
filesystem_store_datadir = {STATE}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {STATE}/tasks
[paste_deploy]
flavor = keystone
config_file = {ETC}/glance/glance-api-paste.ini
{TOKENS}
""",
    "placement/placement.conf": f"""
[DEFAULT]
use_stderr = true
[api]
auth_strategy = keystone
{_database("placement", "placement_database")}
{TOKENS}
""",
    "neutron/neutron.conf": f"""
{COMMON}
[DEFAULT]
core_plugin = ml2
service_plugins = router,segments,trunk,qos,port_forwarding,flow_classifier,sfc
api_paste_config = {ETC}/neutron/api-paste.ini
auth_strategy = keystone
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
send_events_interval = 1
dhcp_agent_notification = false
state_path = {STATE}/neutron
api_workers = 1
rpc_workers = 0
{_database("neutron")}
[nova]
{AUTH}
[placement]
{AUTH}
{TOKENS}
[ml2]
type_drivers = flat,vlan,vxlan,local
tenant_network_types = vxlan
mechanism_drivers = lab,openvswitch
extension_drivers = port_security,dns,qos
[ml2_type_flat]
flat_networks = *
[ml2_type_vlan]
network_vlan_ranges = physnet1:100:200
[ml2_type_vxlan]
vni_ranges = 1:10000
[sfc]
drivers = dummy
[flowclassifier]
drivers = dummy
""",
    "nova/nova.conf": f"""
{COMMON}
[DEFAULT]
compute_driver = fake.FakeDriverWithoutFakeNodes
# There is one hypervisor: a server that grows stays on it.
allow_resize_to_same_host = true
sync_power_state_interval = -1
host = lab
my_ip = {HOST}
state_path = {STATE}/nova
rootwrap_config =
report_interval = 10
service_down_time = 120
{_database("nova")}
{_database("nova_api", "api_database")}
[wsgi]
api_paste_config = {ETC}/nova/api-paste.ini
[api]
auth_strategy = keystone
[conductor]
workers = 1
[scheduler]
workers = 1
[filter_scheduler]
track_instance_changes = false
[glance]
{AUTH}
[neutron]
service_metadata_proxy = false
{AUTH}
[placement]
{AUTH}
[service_user]
send_service_user_token = true
{AUTH}
{TOKENS}
[cinder]
catalog_info = volumev3::publicURL
""",
    "cinder/cinder.conf": f"""
{COMMON}
[DEFAULT]
host = lab
my_ip = {HOST}
auth_strategy = keystone
api_paste_config = {ETC}/cinder/api-paste.ini
resource_query_filters_file = {ETC}/cinder/resource_filters.json
state_path = {STATE}/cinder
enabled_backends = lab
default_volume_type = __DEFAULT__
glance_api_servers = http://{HOST}:{PORTS["glance"]}
{_database("cinder")}
[coordination]
backend_url = file://{STATE}/cinder
[lab]
volume_driver = lab_cinder.VolumeDriver
volume_backend_name = lab
[nova]
{AUTH}
[service_user]
send_service_user_token = true
{AUTH}
{TOKENS}
""",
    "clouds.yaml": f"""
clouds:
  lab:
    region_name: {REGION}
    auth:
      auth_url: {AUTH_URL}
      username: admin
      password: {PASSWORD}
      project_name: admin
      user_domain_name: Default
      project_domain_name: Default
""",
}

PLUGINS = {
    # No agent runs here: this binds ports, and sets the state of a floating IP that an L3 agent would report.
    "lab_neutron.py": """
from neutron_lib import constants
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins import constants as plugin_constants
from neutron_lib.plugins import directory
from neutron_lib.plugins.ml2 import api


class MechanismDriver(api.MechanismDriver):
    def initialize(self):
        for event in (events.AFTER_CREATE, events.AFTER_UPDATE):
            registry.subscribe(self.floating_ip, resources.FLOATING_IP, event)

    @property
    def connectivity(self):
        return 'l2'

    def bind_port(self, context):
        for segment in context.segments_to_bind:
            context.set_binding(segment[api.ID], 'ovs', {'port_filter': True, 'connectivity': 'l2'},
                                status=constants.PORT_STATUS_ACTIVE)
            return

    def floating_ip(self, resource, event, trigger, payload):
        fip = payload.latest_state
        status = (constants.FLOATINGIP_STATUS_ACTIVE if fip.get('fixed_port_id') or fip.get('port_id')
                  else constants.FLOATINGIP_STATUS_DOWN)
        if fip.get('status') != status:
            directory.get_plugin(plugin_constants.L3).update_floatingip_status(
                payload.context.elevated(), payload.resource_id, status)
""",
    # Volumes are their rows in Cinder's tables.
    "lab_cinder.py": """
from cinder.volume import driver


class VolumeDriver(driver.VolumeDriver):
    def _nothing(self, *args, **kwargs):
        return {}

    check_for_setup_error = create_volume = delete_volume = extend_volume = _nothing
    create_export = ensure_export = remove_export = terminate_connection = _nothing

    def initialize_connection(self, volume, connector):
        return {'driver_volume_type': 'lab', 'data': {}}

    def _update_volume_stats(self):
        self._stats = {'volume_backend_name': 'lab', 'vendor_name': 'lab', 'driver_version': '1',
                       'storage_protocol': 'lab', 'total_capacity_gb': 1000, 'free_capacity_gb': 1000}
""",
    "lab-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n",
    "lab-1.0.dist-info/entry_points.txt": "[neutron.ml2.mechanism_drivers]\nlab = lab_neutron:MechanismDriver\n",
}


def _environment() -> dict[str, str]:
    return os.environ | {
        "LAB_STATE": str(STATE),
        "LAB_HOST": HOST,
        "PYTHONPATH": str(STATE / "plugin"),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "OS_CLIENT_CONFIG_FILE": str(STATE / "etc/clouds.yaml"),
        "OS_KEYSTONE_CONFIG_FILES": str(STATE / "etc/keystone/keystone.conf"),
        "OS_GLANCE_CONFIG_DIR": str(STATE / "etc/glance"),
        "OS_PLACEMENT_CONFIG_DIR": str(STATE / "etc/placement"),
        "OS_NEUTRON_CONFIG_DIR": str(STATE / "etc/neutron"),
        "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
        "OS_CINDER_CONFIG_DIR": str(STATE / "etc/cinder"),
        "OS_NOVA_CONFIG_DIR": str(STATE / "etc/nova"),
        "OS_NOVA_CONFIG_FILES": f"{ETC / 'nova/api-paste.ini'};nova.conf",
    }


def _merge(text: str) -> str:
    """Each section once, each key once, as oslo.config wants it; a later value wins."""
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("["):
            current = sections.setdefault(line, {})
        elif not line.startswith("#"):
            current[line.split("=", 1)[0].strip()] = line
    return "".join(f"{name}\n" + "".join(f"{line}\n" for line in keys.values()) for name, keys in sections.items())


def _write_files() -> None:
    folders = ["db", "log", "run", "lock", "images", "staging", "tasks", "image-cache", "consoles"]
    for name in [*folders, "nova", "neutron", "cinder", "fernet", "credential"]:
        (STATE / name).mkdir(parents=True, exist_ok=True)
    for name in ("fernet", "credential"):
        (STATE / name).chmod(0o700)
    for folder, files in (("etc", SETTINGS), ("plugin", PLUGINS)):
        for name, text in files.items():
            path = STATE / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_merge(text) if name.endswith(".conf") else text)


def _manage(project: str, *commands: list[str]) -> subprocess.Popen[bytes]:
    """Start a process that imports ``<project>-manage`` once and forks it for each command."""
    return subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "manage", project, repr(commands)],
        stdout=(STATE / f"log/init-{project}.log").open("wb"),
        stderr=subprocess.STDOUT,
        env=_environment(),
        cwd=STATE,
    )


def manage(project: str, commands: str) -> None:
    """Run commands of ``<project>-manage``, one after another."""
    if project == "neutron":
        return _neutron_schema()
    command = importlib.import_module(f"{project}.cmd.manage").main
    for arguments in ast.literal_eval(commands):
        pid = os.fork()
        if not pid:
            sys.argv = [f"{project}-manage", *arguments]
            sys.exit(command())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(*arguments[2:4], f"rc={status}", flush=True)
        if status:
            sys.exit(status)


def _neutron_schema() -> None:
    # The tables as the models have them: a quarter of the time that the migrations take.
    importlib.import_module("networking_sfc.db.migration.models.head")
    sqlalchemy = importlib.import_module("sqlalchemy")
    head = importlib.import_module("neutron.db.migration.models.head")
    head.get_metadata().create_all(sqlalchemy.create_engine(_connection("neutron")))


def _make() -> None:
    def conf(project: str, *arguments: str) -> list[str]:
        return ["--config-file", str(STATE / "etc" / project), *arguments]

    keystone, nova = "keystone/keystone.conf", "nova/nova.conf"
    owner = ("--keystone-user", "root", "--keystone-group", "root") if os.getuid() == 0 else ()
    urls = [word for kind in ("admin", "public", "internal") for word in (f"--bootstrap-{kind}-url", AUTH_URL)]
    bootstrap = ["--bootstrap-password", PASSWORD, "--bootstrap-region-id", REGION, *urls]
    jobs = [
        _manage(
            "keystone",
            conf(keystone, "db_sync"),
            conf(keystone, "fernet_setup", *owner),
            conf(keystone, "credential_setup", *owner),
            conf(keystone, "bootstrap", *bootstrap),
        ),
        _manage(
            "nova",
            conf(nova, "api_db", "sync"),
            conf(nova, "cell_v2", "map_cell0", "--database_connection", _connection("nova_cell0")),
            conf(nova, "db", "sync"),
            conf(nova, "cell_v2", "create_cell", "--name", "cell1"),
        ),
        _manage("neutron"),
        _manage("glance", conf("glance/glance-api.conf", "db", "sync")),
        _manage("cinder", conf("cinder/cinder.conf", "db", "sync")),
        _manage("placement", conf("placement/placement.conf", "db", "sync")),
    ]
    if any([job.wait() for job in jobs]):
        sys.exit(f"the lab's tables were not made: see {STATE}/log/init-*.log")
    for path in (STATE / "db").glob("*.sqlite"):
        sqlite3.connect(path).execute("PRAGMA journal_mode=WAL")


def serve(name: str) -> None:
    """Serve one project's API until the process ends."""
    sys.argv = [name]
    if name in ("nova", "cinder"):  # decides how it runs threads before anything else is imported
        importlib.import_module(f"{name}.monkey_patch").patch(backend="threading")
    _let_writers_wait()
    with_services = {"nova": _nova, "cinder": _cinder}
    make = with_services.get(name)
    application = make() if make else importlib.import_module(f"{name}.wsgi.api").application
    waitress = importlib.import_module("waitress")
    waitress.serve(application, host=HOST, port=PORTS[name], threads=8, ident=None, channel_timeout=300)


def _let_writers_wait() -> None:
    """Have a writer take sqlite's lock at BEGIN, where it waits for its turn.

    A transaction that has read and then writes fails at once with "database is locked".
    """
    enginefacade = importlib.import_module("oslo_db.sqlalchemy.enginefacade")
    sqlalchemy = importlib.import_module("sqlalchemy")
    orm = importlib.import_module("sqlalchemy.orm")
    factory = enginefacade._TransactionFactory
    create = factory._create_session

    def create_session(self: Any, mode: Any, bind: Any = None) -> Any:
        session = create(self, mode, bind)
        session.info["writer"] = mode is enginefacade._WRITER
        return session

    factory._create_session = create_session

    def after_begin(session: Any, transaction: Any, connection: Any) -> None:
        if session.info.get("writer") and not transaction.nested:
            connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(orm.Session, "after_begin", after_begin)


def _console(driver: Any, context: Any, instance: Any) -> str:
    """What a server's guest has written on its console: a file, for who stands in for the guest."""
    console = STATE / "consoles" / instance.display_name
    return console.read_text() if console.exists() else "booting"


def _nova() -> Any:
    """API, conductor, scheduler and compute as threads of this process."""
    osapi = importlib.import_module("nova.wsgi.osapi_compute")
    service = importlib.import_module("nova.service")
    importlib.import_module("os_vif").initialize()
    importlib.import_module("nova.virt.fake").FakeDriver.get_console_output = _console
    for part in ("conductor", "scheduler", "compute"):
        rpc = importlib.import_module(f"nova.{part}.rpcapi")
        topics = {"topic": rpc.RPC_TOPIC}
        if part == "compute":
            topics["topic_alt"] = rpc.RPC_TOPIC_ALT
        started = service.Service.create(binary=f"nova-{part}", **topics)
        started.start()
        _nova.started = [*getattr(_nova, "started", []), started]  # type: ignore[attr-defined]
    context = importlib.import_module("nova.context")
    importlib.import_module("nova.objects.host_mapping").discover_hosts(context.get_admin_context())
    return osapi.application


def _cinder() -> Any:
    """API, scheduler and volume service as threads of this process."""
    sys.argv += ["--config-file", str(STATE / "etc/cinder/cinder.conf")]
    application = importlib.import_module("cinder.wsgi.api").application
    service = importlib.import_module("cinder.service").Service
    # The scheduler's start waits a minute for a volume service that is not there yet.
    volume = service.create(binary="cinder-volume", host="lab@lab", service_name="lab", coordination=True)
    scheduler = service.create(binary="cinder-scheduler")
    volume.start()
    scheduler.start()
    # Both report as whichever is noted here, and without its reports nothing is put on the volume service.
    service.service_id = volume.origin_service_id
    _cinder.started = [volume, scheduler]  # type: ignore[attr-defined]
    return application


def _answers(name: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{HOST}:{PORTS[name]}/", timeout=2)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def _start(*names: str) -> None:
    began = time.monotonic()
    started = {}
    for name in names:
        if _answers(name):
            sys.exit(f"something answers on {HOST}:{PORTS[name]} already; give the lab another LAB_HOST")
        log = (STATE / f"log/{name}.log").open("ab")
        started[name] = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "serve", name],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            cwd=STATE,
            start_new_session=True,
        )
        (STATE / f"run/{name}.pid").write_text(str(started[name].pid))
    for name, process in started.items():
        while not _answers(name):
            if process.poll() is not None or time.monotonic() - began > 180:
                sys.exit(f"{name} did not start: see {STATE}/log/{name}.log")
            time.sleep(0.2)
        print(f"{name} answers after {time.monotonic() - began:.1f} s", flush=True)


def _fill_catalog() -> None:
    os.environ.update(_environment())
    cloud = importlib.import_module("openstack").connect(cloud="lab")
    identity = cloud.identity
    project = cloud.create_project(name="service", domain_id="default")
    user = cloud.create_user(name="service", password=PASSWORD, domain_id="default", default_project=project.id)
    for role in ("admin", "service"):
        if not identity.find_role(role):
            identity.create_role(name=role)
        cloud.grant_role(role, user=user.id, project=project.id)
    services = {
        "glance": "image", "placement": "placement", "neutron": "network", "nova": "compute", "cinder": "volumev3",
    }  # fmt: skip
    for name, kind in services.items():
        service = identity.create_service(name=name, type=kind)
        url = f"http://{HOST}:{PORTS[name]}" + PATHS.get(name, "")
        for interface in ("public", "internal", "admin"):
            identity.create_endpoint(service_id=service.id, interface=interface, region_id=REGION, url=url)


def up() -> None:
    """Make the lab unless it is there, and start it."""
    began = time.monotonic()
    ready = STATE / "ready"
    if not ready.exists():
        shutil.rmtree(STATE, ignore_errors=True)
    _write_files()
    if not ready.exists():
        _make()
    _start("keystone")
    if not ready.exists():
        _fill_catalog()
        ready.touch()
    _start("glance", "placement", "neutron", "nova", "cinder")
    print(f"up after {time.monotonic() - began:.1f} s: OS_CLIENT_CONFIG_FILE={STATE}/etc/clouds.yaml OS_CLOUD=lab")


def down() -> None:
    """End the lab's processes, by their ids."""
    for path in (STATE / "run").glob("*.pid"):
        pid = int(path.read_text())
        command = Path(f"/proc/{pid}/cmdline")
        # An id may be another process's by now.
        if command.exists() and os.path.abspath(__file__).encode() in command.read_bytes():
            os.kill(pid, signal.SIGTERM)
        path.unlink()


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"up": up, "down": down, "serve": serve, "manage": manage}
    if sys.argv[1:2] and sys.argv[1] in commands:
        commands[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(__doc__)
