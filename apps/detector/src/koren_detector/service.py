"""The detector's process: reads the settings, runs a worker a camera, until it is told to end."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import torch
from prometheus_client import start_http_server

from koren_events import EventsError, Publisher

from . import log
from .accident import load_weights
from .clip_store import ClipStore
from .graph import GraphError
from .incidents import Rules
from .metrics import SPANS_DROPPED, SPOOLED
from .queue_store import QueueStore
from .recorder import Recorder
from .reports import Reports
from .settings import Settings, SettingsError, load_settings
from .stream import Stream
from .vehicles import VehicleFinder
from .view_store import ViewStore
from .worker import Finder, Turns, Worker

_log = logging.getLogger("koren_detector")

_CHECK_S = 1.0


def run(settings: Settings, ending: threading.Event) -> bool:
    """Detect until `ending` is set. Returns False when a worker failed before."""
    # One frame at a time on one core: the site shares the machine.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    weights = load_weights()
    threshold = float(weights["threshold"])
    network = VehicleFinder(settings.model, settings.network_width)
    finder = Finder(network, Turns())
    incidents, views, queues = (settings.state / name for name in ("incidents", "views", "queues"))
    for folder in (incidents, views, queues):
        folder.mkdir(parents=True, exist_ok=True)
    broker = settings.broker
    clips = settings.clips and ClipStore(settings.state / "clips", **asdict(settings.clips))
    telemetry = settings.telemetry and replace(settings.telemetry, on_drop=SPANS_DROPPED.inc)
    with Publisher(
        spool=settings.state / "spool.sqlite", host=broker.host, port=broker.port, ca=broker.ca,
        cert=broker.cert, key=broker.key, client_id="detector", health_part="detector", telemetry=telemetry,
        on_receipt=clips.on_receipt if clips else None,
    ) as publisher:  # fmt: skip
        streams = [
            Stream(camera.camera.id, settings.stream_url(camera), settings.fps, camera.transport)
            for camera in settings.cameras
        ]
        workers = [
            Worker(
                camera, stream, finder, weights, Rules(score=threshold),
                Reports(camera, incidents, publisher.publish),
                Recorder(camera, clips) if clips and camera.post == "confirm" else None,
                ViewStore(camera, views),
                QueueStore(camera, queues),
            )
            for camera, stream in zip(settings.cameras, streams, strict=True)
        ]  # fmt: skip
        SPOOLED.set_function(lambda: publisher.spooled)
        start_http_server(settings.metrics_port, settings.metrics_address)
        for worker, stream in zip(workers, streams, strict=True):
            stream.start()
            worker.start()
        _log.info("%d cameras on %s, score above %.2f", len(workers), network.device, threshold)
        well = True
        while well and not ending.wait(_CHECK_S):
            well = all(worker.alive for worker in workers)
        for stream in streams:
            stream.end()
        for worker, stream in zip(workers, streams, strict=True):
            worker.stop()
            stream.stop()
    if clips:
        clips.close()
    return well


def main() -> None:
    """Entry of the service: `koren-detector --config FILE`."""
    parser = argparse.ArgumentParser(description="See accidents on CCTV, publish them as events.")
    parser.add_argument("--config", type=Path, required=True, help="settings, a JSON file")
    parser.add_argument("--check", action="store_true", help="check the settings and end")
    options = parser.parse_args()
    log.configure()
    try:
        settings = load_settings(options.config)
        if options.check:
            return
        ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
        if not run(settings, ending):
            sys.exit(1)
    except (SettingsError, GraphError, EventsError, ValueError, OSError) as error:
        sys.exit(f"koren-detector: {error}")
