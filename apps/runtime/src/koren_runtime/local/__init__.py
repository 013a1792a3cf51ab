"""Runs a function on a developer's machine: the pod's own program, with a small gateway beside it.

    with Pod(Path("hello"), handler="handler.handler") as pod:
        outcome = pod.call(new_event({"who": "you"}))

Nothing of this runs in a region.
"""

from koren_runtime.local.events import new_event
from koren_runtime.local.gateway import Outcome, serving
from koren_runtime.local.pod import Pod, node_options, node_worker
from koren_runtime.local.state import LocalError, State

__all__ = ["LocalError", "Outcome", "Pod", "State", "new_event", "node_options", "node_worker", "serving"]
