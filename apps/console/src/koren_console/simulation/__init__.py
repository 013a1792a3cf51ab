# SPDX-License-Identifier: Apache-2.0
"""A site that does not exist, alive: for people who want to look at the page, and for its tests."""

from koren_console.simulation.app import Anybody, application
from koren_console.simulation.board import Mood, Simulation

__all__ = ["Anybody", "Mood", "Simulation", "application"]
