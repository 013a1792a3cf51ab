#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Read which version of Kubernetes a cluster runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_versions
short_description: Read which version of Kubernetes a cluster runs, and whether it can be upgraded to another
description:
  - Compares the API server and the kubelet of each node with the wanted version. Changes nothing.
options:
  kubeconfig:
    description: The site's kubeconfig. If it is missing or lacks the context, there is no cluster yet.
    type: path
    required: true
  context:
    description: Context of the cluster in it.
    type: str
    required: true
  wanted:
    description: The version that the cluster must have, such as C(v1.36.3+koren.1).
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Nothing is changed.
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Read what runs in Seoul
  koren.faas.kubernetes_versions:
    kubeconfig: .state/local/kubeconfig
    context: seoul
    wanted: v1.36.3
  register: versions
"""

RETURN = r"""
answers:
  description: Whether the cluster exists and its API server answered.
  returned: always
  type: bool
why:
  description: Why it did not answer.
  returned: when it does not answer
  type: str
server:
  description: The API server's version; empty when it does not answer.
  returned: always
  type: str
kubelets:
  description: The kubelet's version by the node's name; none when the API server does not answer.
  returned: always
  type: dict
others:
  description: Components that run another version than the wanted one, as text.
  returned: always
  type: list
  elements: str
refusal:
  description: Why the cluster can't be upgraded to the wanted version, and what to do instead; empty when it can.
  returned: always
  type: str
"""

from json import loads
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.faas import need_library
from ansible_collections.koren.faas.plugins.module_utils.kubernetes_upgrade import others, refusal


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kubeconfig": {"type": "path", "required": True},
            "context": {"type": "str", "required": True},
            "wanted": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    faas = need_library(module)
    from koren_faas.kube import Kube
    from koren_faas.site import Region

    context, wanted = module.params["context"], module.params["wanted"]
    try:
        kube = Kube(Region(name=context, context=context, registry="", nodes=()), Path(module.params["kubeconfig"]))
        server = str(loads(kube.request("GET", "/version"))["gitVersion"])
        nodes = loads(kube.request("GET", "/api/v1/nodes"))["items"]
    except faas.FaasError as error:
        module.exit_json(changed=False, answers=False, why=str(error), server="", kubelets={}, others=[], refusal="")
    kubelets = {str(node["metadata"]["name"]): str(node["status"]["nodeInfo"]["kubeletVersion"]) for node in nodes}
    try:
        why = refusal(server, kubelets, wanted)
    except ValueError as error:
        module.fail_json(msg=f"{context}: {error}")
    module.exit_json(
        changed=False,
        answers=True,
        server=server,
        kubelets=kubelets,
        others=others(server, kubelets, wanted),
        refusal=why,
    )


if __name__ == "__main__":
    main()
