from __future__ import annotations
import statistics
from conftest import DONE, drill
from bench_events import handled, PHASES

def test_w(probe, publisher, capsys):
    opened = drill("seoul")
    handled(publisher, opened)
    runs = [handled(publisher, drill("seoul", type=DONE)) for _ in range(40)]
    import time
    slow = []
    for _ in range(20):
        time.sleep(0.3)
        slow.append(handled(publisher, drill("seoul", type=DONE)))
    handled(publisher, drill("seoul", closes=opened))
    with capsys.disabled():
        for name, r in (("fast", runs), ("slow", slow)):
            print(name, {p: round(statistics.median([x[p] for x in r if p in x]), 1) for p in (*PHASES, "handler_done") if any(p in x for x in r)})
