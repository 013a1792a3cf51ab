# SPDX-License-Identifier: Apache-2.0
"""The clock of a region's queue and broker is two hours off and set right again: events go on being handled.

Hosts of the local site share the kernel's clock, so the two programs get one of their own by a library that they load.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import DONE, SITE_DIR, Heard, Record, drill, on_host, until
from test_faults import LOST, entries
from test_hosts_lost import handled

from koren_events import Publisher, ReceiptState

pytestmark = pytest.mark.long

HOST = "seoul-cp"
SERVICES = ("redis-server", "mosquitto")
SOURCE = Path(__file__).parents[1] / "clock" / "clock.c"
# Redis may load programs from below /usr/lib alone.
LIBRARY, CLOCK = "/usr/lib/koren-clock.so", "/usr/lib/koren-clock"
WRITE = f"import struct, sys; open('{CLOCK}', 'r+b').write(struct.pack('=q', int(sys.argv[1])))"
EVENTS = 10
# Redis forgets what the function notes by its own clock.
KEPT_S = 86400


@pytest.fixture
def set_clock(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Sets the clock of the services to so many seconds away from the machine's."""
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    copy = ["ssh", "-F", str(SITE_DIR / "ssh_config"), HOST, f"cat >{LIBRARY} && truncate -s 8 {CLOCK}"]
    subprocess.run(copy, check=True, input=library.read_bytes(), timeout=60)
    drop_in = f"[Service]\\nEnvironment=LD_PRELOAD={LIBRARY} KOREN_CLOCK={CLOCK}\\n"
    folders = [f"/run/systemd/system/{service}.service.d" for service in SERVICES]
    for folder in folders:
        on_host(HOST, "sh", "-c", f"mkdir -p {folder} && printf '{drop_in}' >{folder}/clock.conf")
    restart = f"systemctl daemon-reload && systemctl restart {' '.join(SERVICES)}"
    on_host(HOST, "sh", "-c", restart)
    yield lambda off_s: on_host(HOST, "python3", "-c", WRITE, str(off_s)) and None
    for folder in folders:
        on_host(HOST, "rm", "-r", folder)
    on_host(HOST, "sh", "-c", f"{restart} && rm {LIBRARY} {CLOCK}")


def test_events_are_handled_whatever_the_clock_of_the_queue_says(
    set_clock: Callable[[int], None], probe: str, publisher: Publisher, heard: Heard, record_property: Record
) -> None:
    handled(publisher, heard)
    longest_s = 0.0
    for off_s in (7200, 0, -7200, 0):
        # One waits for its next attempt, and one is in hand, while the clock is set.
        again = drill("seoul", type=DONE, do="fail", times=1, keep_s=KEPT_S)
        slow = drill("seoul", type=DONE, do="note", work_s=8, keep_s=KEPT_S)
        for event in (again, slow):
            publisher.publish(event)
            until("it has begun", lambda event=event: heard.of(event, ReceiptState.STARTED), 90)
        set_clock(off_s)
        began = time.monotonic()
        events = [drill("seoul", type=DONE, do="note", keep_s=KEPT_S) for _ in range(EVENTS)]
        for event in events:
            publisher.publish(event)
        for event in (*events, slow, again):
            until("an event is handled", lambda event=event: heard.of(event, ReceiptState.SUCCEEDED), 90)
        longest_s = max(longest_s, time.monotonic() - began)
        entered = entries(probe, [event.id for event in (*events, slow)])
        lost = {r.id for r in list(heard) if r.state is ReceiptState.FAILED and str(r.error).startswith(LOST)}
        assert [id for id, noted in entered.items() if len(noted) != 1 and id not in lost] == []
    record_property("longest until all were handled", f"{longest_s:.0f} s")
