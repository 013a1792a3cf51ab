#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Check that an external Redis can be a region's queue, and claim it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_check
short_description: Check that an external Redis can be a region's queue, and claim it
description:
  - Fails with all missing requirements, each with its remedy. Required are Redis 7.0 or newer as a single writable
    server with TLS, an append-only file that is synced at each write, no eviction, and the permissions that the
    gateway's commands need.
  - Claims the data for one region, so that no two regions or sites share a queue.
  - Runs on the host whose gateway will use it. Needs only Python there.
options:
  host:
    description: Name or address, as in its certificate.
    type: str
    required: true
  port:
    description: Port, with TLS.
    type: int
    default: 6379
  user:
    description: User.
    type: str
    required: true
  password:
    description: The user's password.
    type: str
    required: true
  ca:
    description: Certificate of the authority that signs the server's certificate, as PEM.
    type: str
    required: true
  owner:
    description: Owner of the queue, such as C(site/region).
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Claims nothing.
  diff_mode:
    support: full
author: the koren.faas authors
"""

EXAMPLES = r"""
- name: Check Seoul's queue
  koren.faas.redis_check:
    host: redis.example.kr
    user: koren
    password: "{{ vault_redis_seoul }}"
    ca: "{{ lookup('ansible.builtin.file', 'redis-ca.crt') }}"
    owner: local/seoul
"""

RETURN = r"""
version:
  description: Redis' version.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.koren.faas.plugins.module_utils.redis_check import (
    OWNER,
    Client,
    RedisProblem,
    Refused,
    facts_of,
    problems,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 6379},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "ca": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        client = Client(*(params[name] for name in ("host", "port", "user", "password", "ca")))
        facts = facts_of(client)
        found = list(problems(client, facts))
        place = f"{params['host']}:{params['port']}"
        if found:
            module.fail_json(msg=f"Redis at {place} can't be the queue of {params['owner']}: {'; '.join(found)}.")
        owner = client.ask("GET", OWNER)
        if owner not in (None, params["owner"]):
            module.fail_json(
                msg=f"Redis at {place} has the queue of {owner}."
                f" Give {params['owner']} its own server, or delete all keys 'koren:*' there,"
                f" including {OWNER}, if that queue is no longer needed."
            )
        if owner is None and not module.check_mode:
            client.ask("SET", OWNER, params["owner"])
    except (RedisProblem, Refused) as error:
        module.fail_json(msg=str(error))
    change = {"before": f"{owner or ''}\n", "after": f"{params['owner']}\n"}
    module.exit_json(changed=owner is None, version=facts["redis_version"], diff=change if owner is None else [])


if __name__ == "__main__":
    main()
