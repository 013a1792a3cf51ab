# SPDX-License-Identifier: Apache-2.0
"""Follows an incident on the controller; the module of this name has the documentation."""

from __future__ import annotations

import json
import os
import queue
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.basic import missing_required_lib
from ansible.plugins.action import ActionBase
from ansible_collections.koren.faas.plugins.module_utils.incident import HAS_EVENTS, Incident, Step, WentWrong

TOPICS = ("events/#", "receipts/#")
# Where to look when a step did not happen.
LOOK = {
    "seen": "the detector: journalctl -u koren-detector on the host of the group hpc, and -u cctv on the cameras'",
    "durable": "the bridge and the gateway: journalctl -u mosquitto on both control planes,"
    " kubectl --context {region} -n koren-faas logs -l app.kubernetes.io/name=gateway",
    "pod started": "KEDA and the pod: kubectl --context {region} -n functions describe scaledobject,pod",
    "handler entered": "the pod: kubectl --context {region} -n functions logs -l faas.koren.kr/function={function}",
    "posted": "the function and the social server: kubectl --context {region} -n functions logs"
    " -l faas.koren.kr/function={function}; journalctl -u sns -u nginx on the host of the group sns",
    "cleared": "the detector: journalctl -u koren-detector on the host of the group hpc",
    "edited": "the function: kubectl --context {region} -n functions logs -l faas.koren.kr/function={function}",
    "gone": "KEDA: kubectl --context {region} -n functions describe scaledobject {function}",
}
NAMES = ["seen", "sent", "durable", "pod started", "handler entered", "posted", "cleared", "edited", "gone"]


class ActionModule(ActionBase):
    """Shows each step as it happens, which a module can't."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result that the module's documentation describes."""
        result = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "camera": {"type": "str", "required": True},
                "region": {"type": "str", "required": True},
                "function": {"type": "str", "required": True},
                "since": {"type": "str"},
                "detect_timeout_s": {"type": "int", "default": 90},
                "step_timeout_s": {"type": "int", "default": 60},
                "site_dir": {"type": "path", "required": True},
            }
        )
        if self._task.check_mode:
            return result | {"skipped": True, "msg": "nothing to follow in check mode"}
        if not HAS_EVENTS:
            raise AnsibleActionFail(missing_required_lib("koren_events", reason="it is in the folder apps/events"))
        since = datetime.fromisoformat(args["since"]) if args["since"] else datetime.now(UTC)
        incident = Incident(args["region"], args["camera"], args["function"], since)
        folder = Path(args["site_dir"])
        pods = _Pods(folder, args["region"], args["function"])
        with _Broker(folder) as broker:
            steps = self._follow(incident, broker, pods, args)
        seen = steps[0].time
        assert incident.detected is not None  # its first step was made
        return result | {
            "changed": False,
            "subject": incident.detected.subject,
            "post": incident.post,
            "steps": [
                {
                    "name": step.name,
                    "time": step.time.isoformat(timespec="milliseconds"),
                    "after_s": round((step.time - seen).total_seconds(), 3),
                }
                for step in sorted(steps, key=lambda step: step.time)
            ],
        }

    def _follow(self, incident: Incident, broker: _Broker, pods: _Pods, args: dict[str, Any]) -> list[Step]:
        shown: dict[str, Step] = {}
        told: set[str] = set()
        deadline = time.monotonic() + args["detect_timeout_s"]
        while len(shown) < len(NAMES):
            found = broker.next_message(within_s=0.2)
            if found:
                try:
                    incident.accept(*found)
                except WentWrong as error:
                    raise AnsibleActionFail(str(error)) from error
            steps = list(incident.steps())
            if steps and steps[-1].name == "edited" and pods.none():
                steps.append(Step("gone", datetime.now(UTC), f"{args['region']} is at zero again"))
            for step in steps:
                if step.name not in shown:
                    shown[step.name] = step
                    self._show(step, steps[0])
                    deadline = time.monotonic() + args["step_timeout_s"] * (2 if step.name == "posted" else 1)
            for failure in incident.failures():
                if failure not in told:
                    told.add(failure)
                    self._display.warning(failure)
            if time.monotonic() > deadline:
                missing = next(name for name in NAMES if name not in shown)
                last = list(shown)[-1] if shown else "the start"
                look = LOOK[missing].format(region=args["region"], function=args["function"])
                raise AnsibleActionFail(f"'{missing}' did not happen in time after '{last}'. Look at {look}")
        return list(shown.values())

    def _show(self, step: Step, first: Step) -> None:
        after_s = (step.time - first.time).total_seconds()
        self._display.display(
            f"  {step.time.astimezone():%H:%M:%S.%f}"[:-3] + f"  {after_s:+8.3f} s  {step.name:<16} {step.text}"
        )


class _Pods:
    """A function's pods in a region."""

    def __init__(self, folder: Path, region: str, function: str) -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise AnsibleActionFail(missing_required_lib("kubernetes")) from error
        self._api = client.CoreV1Api(config.new_client_from_config(str(folder / "kubeconfig"), context=region))
        self._label = f"faas.koren.kr/function={function}"

    def none(self) -> bool:
        """Whether there is none, not even one that is going."""
        return not self._api.list_namespaced_pod("functions", label_selector=self._label).items


class _Broker:
    """What the centre's broker carries, read as the site's operator."""

    def __init__(self, folder: Path) -> None:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self._messages: queue.Queue[tuple[str, bytes, datetime]] = queue.Queue()
        self._ready: queue.Queue[str] = queue.Queue()
        self._address = json.loads((folder / "site.json").read_text())["central_broker"]
        pki = folder / "pki"
        tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        tls.load_cert_chain(pki / "operator.crt", pki / "operator.key")
        name = f"wait-for-incident-{os.getpid()}"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self._client.tls_set_context(tls)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.put("")
        self._client.on_message = self._on_message

    def __enter__(self) -> _Broker:
        host, _, port = self._address.rpartition(":")
        try:
            self._client.connect(host, int(port))
            self._client.loop_start()
            refusal = self._ready.get(timeout=15)
        except (OSError, queue.Empty) as error:
            self._client.loop_stop()
            raise AnsibleActionFail(
                f"the centre's broker at {self._address} does not answer: {error!r};"
                " look at journalctl -u mosquitto on the centre's control plane"
            ) from error
        if refusal:
            self._client.loop_stop()
            raise AnsibleActionFail(f"the centre's broker at {self._address} refuses the operator: {refusal}")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def next_message(self, within_s: float) -> tuple[str, bytes, datetime] | None:
        """Topic, content and arrival of the next message; None when there is none within the time."""
        try:
            return self._messages.get(timeout=within_s)
        except queue.Empty:
            return None

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._ready.put(str(reason))
        else:
            client.subscribe([(topic, 1) for topic in TOPICS])

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        if not message.retain:
            self._messages.put((message.topic, message.payload, datetime.now(UTC)))
