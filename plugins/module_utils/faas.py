# SPDX-License-Identifier: Apache-2.0
"""What the modules for functions share: the library C(koren_faas) and the site to use."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import koren_faas
except ImportError:
    koren_faas = None  # type: ignore[assignment]
    IMPORT_ERROR = traceback.format_exc()


def need_library(module: AnsibleModule) -> Any:
    """The library; without it the module fails and says what to install."""
    if koren_faas is None:
        module.fail_json(
            msg=missing_required_lib("koren_faas", reason="it is in the folder apps/faas"),
            exception=IMPORT_ERROR,
        )
    return koren_faas


def load_site(module: AnsibleModule) -> Any:
    """The site of the option I(site_dir).

    Raises:
        NotReadyError: the site does not exist.
    """
    return koren_faas.Site.load(module.params["site_dir"])


def as_diff(result: Any) -> list[dict[str, str]]:
    """A result's differences as Ansible shows them."""
    return [
        {
            "before_header": change.what,
            "after_header": change.what,
            "before": change.before,
            "after": change.after,
        }
        for change in result.diff
    ]


def carry_out(module: AnsibleModule, act: Callable[..., Any]) -> None:
    """Have the site changed by C(act), and end the module with what that changed.

    Check mode before a site's first run reports what would be made: earlier steps would have made what is missing.

    Args:
        module: it has the options I(state) and I(site_dir).
        act: loads the site and changes it, or in check mode tells what would change. Its arguments C(check) and
            C(on_progress) are those of the library's operations, and it returns their result.
    """
    faas = need_library(module)
    steps: list[str] = []
    try:
        result = act(check=module.check_mode, on_progress=steps.append)
    except faas.NotReadyError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        module.exit_json(changed=module.params["state"] == "present", regions=[], steps=[str(error)])
    except faas.FaasError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=result.changed, diff=as_diff(result), regions=list(result.regions), steps=steps)


def declare_trigger(
    kind: str, options: dict[str, Any], needed: tuple[str, ...], described: Callable[[Any, dict[str, Any]], Any]
) -> None:
    """Run a module that declares a trigger, or takes it away.

    Args:
        kind: that of the trigger, as the library names it.
        options: those of the module beside the ones that all kinds have.
        needed: which of these C(state=present) needs.
        described: makes the library's description of the trigger from the library and the options.
    """
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "regions": {"type": "list", "elements": "str", "default": []},
            "function": {"type": "str"},
            **options,
            "site_dir": {"type": "path"},
        },
        required_if=[("state", "present", ("function", *needed))],
        supports_check_mode=True,
    )
    faas, params = need_library(module), module.params

    def act(**how: Any) -> Any:
        if params["state"] == "absent":
            return faas.triggers.remove(load_site(module), params["name"], kind, params["regions"], **how)
        trigger = described(faas, params)
        create = {"cron": faas.cron_triggers, "http": faas.http_triggers}[kind].create
        return create(load_site(module), trigger, params["regions"], **how)

    carry_out(module, act)


def as_path(value: str | None) -> Path | None:
    """A path option's value."""
    return None if value is None else Path(value)
