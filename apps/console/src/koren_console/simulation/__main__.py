# SPDX-License-Identifier: Apache-2.0
"""`python -m koren_console.simulation --port 8000` serves the page with a simulated site on this machine."""

from __future__ import annotations

import argparse

import uvicorn

from koren_console.simulation import Anybody, Mood, Simulation, application


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="koren_console.simulation", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--regions", type=int, default=3)
    parser.add_argument("--functions", type=int, default=12)
    parser.add_argument("--cameras", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=40, help="seconds between incidents, on average; 0 for none")
    parser.add_argument("--pace", type=float, default=1, help="how many times faster incidents go by")
    parser.add_argument("--mood", choices=[mood.value for mood in Mood], default=Mood.WELL.value)
    given = parser.parse_args()
    board = Simulation(
        regions=given.regions,
        functions=given.functions,
        cameras=given.cameras,
        seed=given.seed,
        every_s=given.every,
        pace=given.pace,
        mood=Mood(given.mood),
    )
    print(f"http://127.0.0.1:{given.port}/ is the page; a cookie role=viewer shows it as a viewer sees it")
    uvicorn.run(
        application(board, Anybody()),
        host="127.0.0.1",
        port=given.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
