import threading
import time

from koren_detector.worker import Turns


def test_turns_go_round_though_one_asks_again_at_once() -> None:
    turns, served, ending = Turns(), [], time.monotonic() + 0.5

    def work(name: str) -> None:
        while time.monotonic() < ending:
            with turns:
                served.append(name)
                time.sleep(0.01)

    workers = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    counts = [served.count(name) for name in "abc"]
    assert max(counts) - min(counts) <= 2
