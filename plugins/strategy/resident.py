# SPDX-License-Identifier: Apache-2.0
"""Ansible's linear strategy with one Python process per host for the whole run."""

from __future__ import annotations

DOCUMENTATION = r"""
name: resident
short_description: Runs tasks as C(linear) does, in one Python process per host for the whole run
description:
  - Mitogen's C(mitogen_linear), without its binding of processes to single processors. What a task starts
    inherits such a binding; a host that the podman driver creates, with all that runs on it, would be left with
    one processor less than the machine has.
  - Ansible forks a process for each task of each host, and each would load the filters and tests again, and search all
    collections. This strategy does it once, before the first fork.
  - A module that restarts itself under another Python, as M(ansible.builtin.apt) does on a controller in a
    virtual environment, needs the strategy P(ansible.builtin.linear#strategy).
author: the koren.faas authors
"""

import importlib
import pkgutil

import ansible_mitogen.affinity
from ansible.collections.list import list_collection_dirs
from ansible.plugins.loader import filter_loader, test_loader
from ansible_mitogen.plugins.strategy.mitogen_linear import StrategyModule

__all__ = ["StrategyModule"]

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()

list(list_collection_dirs())
filter_loader.get("ansible.builtin.default")
test_loader.get("ansible.builtin.defined")
own = importlib.import_module("ansible_collections.koren.faas.plugins.filter")
for module in pkgutil.iter_modules(own.__path__):
    importlib.import_module(f"{own.__name__}.{module.name}")
