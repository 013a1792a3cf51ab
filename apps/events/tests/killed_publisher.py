"""A program: publishes the event on standard input and dies by kill -9.

Arguments: the publisher's settings as JSON; `acknowledged` where the broker is to acknowledge the event before.
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
    while "acknowledged" in sys.argv and not all(entry.sent_at for entry in publisher._spool.entries()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
