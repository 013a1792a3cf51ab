from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from koren_detector.stream_clock import Pacer, StreamClock

DAY_S = 86_400.0
SEGMENT_S = 6.0
WINDOW = 5
"""Segments that the server keeps."""
EVERY_S = 0.25
START_S = 1.7e9


@dataclass
class Hls:
    """A reader of segments, as FFmpeg reads them: simulated, so days take seconds.

    `drift` is how much slower than ours the camera's clock is. A segment may come late by up to `late_s`.
    """

    drift: float
    late_s: float
    every_s: float = 1.0
    now_s: float = 0.0
    lost: int = 0
    stamps: list[float] = field(default_factory=list)
    shown_s: list[float] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    continued: list[bool] = field(default_factory=list)

    def there_s(self, segment: int) -> float:
        late = (segment * 7919 % 101) / 101 * self.late_s
        return (segment + 1) * SEGMENT_S * (1 + self.drift) + late

    def run(self, seconds: float, cut: tuple[float, float] = (0.0, 0.0)) -> None:
        pacer, clock = Pacer(), StreamClock()
        segment = WINDOW - 2
        self.now_s = self.there_s(WINDOW - 1)
        while self.now_s < seconds:
            while self.now_s < self.there_s(segment) or cut[0] < self.now_s < cut[1]:
                self.now_s += SEGMENT_S / 2
            while self.now_s > self.there_s(segment + WINDOW):
                segment, self.lost = segment + 1, self.lost + 1
            for number in range(round(SEGMENT_S / self.every_s)):
                stamp_s = segment * SEGMENT_S + number * self.every_s
                self.now_s += pacer.wait_s(stamp_s, self.now_s)
                self.stamps.append(stamp_s)
                self.shown_s.append(self.now_s)
                time_s, continues = clock.read(stamp_s, START_S + self.now_s)
                self.times_s.append(time_s - START_S)
                self.continued.append(continues)
            segment += 1

    def delays(self) -> np.ndarray:
        return np.array(self.shown_s) - np.array(self.stamps) * (1 + self.drift)


@pytest.mark.parametrize("drift", [-5e-5, 0.0, 5e-5])
@pytest.mark.parametrize("late_s", [0.0, 2.0])
def test_a_clock_that_drifts_for_days_costs_no_frame_and_no_delay(drift: float, late_s: float) -> None:
    hls = Hls(drift, late_s)
    hls.run(2 * DAY_S)

    assert hls.lost == 0
    delays = hls.delays()
    assert delays.max() < 3 * SEGMENT_S, "no more than two segments and one that is being made"
    steps = np.diff(hls.times_s)
    assert np.abs(steps - 1).max() < 0.006, "speeds are right, whatever the pace"
    assert all(hls.continued[1:])
    aside = np.array(hls.shown_s) - np.array(hls.times_s)
    assert aside.min() > -0.01 and aside.max() < SEGMENT_S, "times stay those at which frames are shown"


def test_frames_of_a_burst_are_shown_one_by_one() -> None:
    pacer, now_s, shown = Pacer(), 100.0, []
    for number in range(24):
        now_s += pacer.wait_s(number * EVERY_S, now_s)
        shown.append(now_s)

    assert np.diff(shown) == pytest.approx(np.full(23, EVERY_S), rel=0.001)


def test_after_a_cut_the_delay_goes_back_before_the_server_deletes_segments() -> None:
    hls = Hls(0.0, 0.0)
    hls.run(2 * 3600, cut=(1000.0, 1015.0))

    assert hls.lost == 0
    assert hls.delays()[-1] < hls.delays().max() - 3.0 < (WINDOW - 1) * SEGMENT_S


def test_a_frame_that_comes_a_little_late_is_made_up_for_without_a_rush() -> None:
    pacer, now_s, shown = Pacer(), 0.0, []
    for number in range(40):
        now_s += 0.8 if number == 10 else 0.0
        now_s += pacer.wait_s(number * EVERY_S, now_s)
        shown.append(now_s)

    assert np.diff(shown)[10:].min() > 0.75 * EVERY_S
    assert shown[-1] == pytest.approx(39 * EVERY_S, abs=0.05)


def live(clock: StreamClock, seconds: float, drift: float, jitter_s: float = 0.05) -> tuple[list[float], float]:
    """Times of the frames of an RTSP stream; how far the last is from the time at which it was taken."""
    draw = np.random.default_rng(3)
    times, taken_s = [], 0.0
    for number in range(int(seconds / EVERY_S)):
        taken_s = START_S + number * EVERY_S * (1 + drift)
        times.append(clock.read(number * EVERY_S, taken_s + float(draw.exponential(jitter_s)))[0])
    return times, times[-1] - taken_s


@pytest.mark.parametrize("drift", [-5e-5, 5e-5])
def test_the_networks_jitter_does_not_look_like_speed_after_days(drift: float) -> None:
    times, aside_s = live(StreamClock(), DAY_S, drift)

    steps = np.diff(times[100:])
    assert np.abs(steps / EVERY_S - 1).max() < 0.04
    assert abs(aside_s) < 0.1


def test_stamps_that_begin_anew_go_on_as_another_stream() -> None:
    clock = StreamClock()
    assert clock.read(50.0, START_S)[1] is False
    assert clock.read(50.25, START_S + 0.25) == (START_S + 0.25, True)

    time_s, continues = clock.read(0.0, START_S + 0.5)

    assert (time_s, continues) == (START_S + 0.5, False)
    assert clock.read(0.25, START_S + 0.75) == (START_S + 0.75, True)


def test_mpeg_ts_counts_over_after_26_hours() -> None:
    clock = StreamClock()
    end_s = 2**33 / 90_000
    for number in range(8):
        stamp_s = (end_s - 1 + number * EVERY_S) % end_s
        time_s, continues = clock.read(stamp_s, START_S + number * EVERY_S)
        assert time_s == pytest.approx(START_S + number * EVERY_S, abs=0.01)
        assert continues == (number > 0)


@pytest.mark.parametrize("set_s", [-3600.0, 3600.0])
def test_a_host_whose_clock_is_set_goes_on_at_once(set_s: float) -> None:
    clock = StreamClock()
    for number in range(8):
        clock.read(number * EVERY_S, START_S + number * EVERY_S)

    assert clock.read(2.0, START_S + 2 + set_s) == (START_S + 2 + set_s, False)
    assert clock.read(2.25, START_S + 2.25 + set_s) == (START_S + 2.25 + set_s, True)
