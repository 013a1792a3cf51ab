"""A program: publishes the event on standard input, waits, and dies by kill -9.

Arguments: the publisher's settings as JSON, the seconds between `publish` and death.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from koren_events import Event, Publisher

settings = json.loads(sys.argv[1])
for name in ("spool", "ca", "cert", "key"):
    settings[name] = Path(settings[name])
with Publisher(**settings) as publisher:
    publisher.publish(Event.from_json(sys.stdin.buffer.read()))
    time.sleep(float(sys.argv[2]))
    os.kill(os.getpid(), signal.SIGKILL)
