"""A stream's own clock: when each frame was taken, and when a stream that arrives in bursts shows it."""

from __future__ import annotations

_JUMP_S = 5.0
_WRAP_S = 2**33 / 90_000
"""MPEG-TS counts 90 kHz in 33 bits: after 26.5 hours it begins at 0."""

_SLEW, _QUICK_SLEW = 1e-4, 5e-3
_LAGGING_S, _LOST_S = 0.5, 30.0
_SET_BACK_S = 1.0
_SMALLEST_STEP_S = 0.001

_EAGER, _HURRY = 2e-4, 5e-3
_BEHIND_S = 10.0
_CATCH_UP = 0.8
_PATIENCE_S = 1.0


class StreamClock:
    """Unix times for the stamps of a stream's frames.

    Stamps have none of the network's jitter, which would look like speed. The offset from stamps to unix time is that
    of the frames that came quickest. It follows a stream whose clock is slower or faster than this host's by 100 ppm,
    and never bends speeds by more than half a percent.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._wrapped_s = self._offset_s = self._time_s = 0.0

    def begin(self) -> None:
        """Take note that a new connection's stamps follow."""
        self._last, self._wrapped_s = None, 0.0

    def read(self, stamp_s: float, now_s: float) -> tuple[float, bool]:
        """The time of a frame that came at `now_s` (both unix seconds), and whether it continues the last one.

        Times grow, but where the host's own clock was set back. A frame does not continue the last one where the
        stream's stamps jump: an encoder that began anew, or segments that were missed.
        """
        if self._last is None:
            self._last = (stamp_s, now_s)
            self._offset_s = now_s - stamp_s
            self._time_s = max(now_s, self._time_s + _SMALLEST_STEP_S)
            return self._time_s, False
        last_stamp_s, last_now_s = self._last
        if abs(stamp_s + self._wrapped_s + _WRAP_S - last_stamp_s) < _JUMP_S:
            self._wrapped_s += _WRAP_S
        stamp_s += self._wrapped_s
        step_s = stamp_s - last_stamp_s
        lag_s = now_s - stamp_s - self._offset_s
        set_back = now_s < last_now_s - _SET_BACK_S
        self._last = (stamp_s, now_s)
        if set_back or abs(step_s) > _JUMP_S or lag_s > _LOST_S:
            self._offset_s = now_s - stamp_s
            self._time_s = now_s if set_back else max(now_s, self._time_s + _SMALLEST_STEP_S)
            return self._time_s, False
        slew = _QUICK_SLEW if lag_s > _LAGGING_S else _SLEW
        self._offset_s = min(self._offset_s + slew * max(step_s, 0.0), now_s - stamp_s)
        self._time_s = max(stamp_s + self._offset_s, self._time_s + _SMALLEST_STEP_S)
        return self._time_s, True


class Pacer:
    """Shows the frames of a stream that arrives in bursts, such as HLS, at the pace of their stamps.

    Whoever reads waits before each frame, so what is not yet due stays where it is, at the server. How much waits
    there can't be seen. The pace is therefore too quick by 0.02 %, more than clocks differ by, until the next segment
    is not there yet: then what follows is late by that wait. So the delay never grows, and no frame is passed over.
    """

    def __init__(self) -> None:
        self._stamp_s: float | None = None
        self._due_s = self._shown_s = self._behind_s = 0.0

    def wait_s(self, stamp_s: float, now_s: float) -> float:
        """How long to wait with a frame that is there at `now_s` (seconds of any clock that is never set)."""
        step_s = 0.0 if self._stamp_s is None else stamp_s - self._stamp_s
        first, self._stamp_s = self._stamp_s is None, stamp_s
        if first or abs(step_s) > _JUMP_S:
            self._due_s = self._shown_s = now_s
            return 0.0
        # After a long wait, back towards the newest segment: servers delete old ones.
        early = _HURRY if self._behind_s > _BEHIND_S else _EAGER
        self._due_s += step_s * (1 - early)
        # Some of the waits are those of a clock that is slower than ours.
        self._behind_s = max(self._behind_s - step_s * (early + _SLEW), 0.0)
        late_s = now_s - self._due_s
        if late_s > _PATIENCE_S:
            self._due_s = now_s
            self._behind_s += late_s
        # What came a little late is made up for without a rush: the detector looks at one frame at a time.
        self._shown_s = max(self._due_s, self._shown_s + step_s * _CATCH_UP, now_s)
        return self._shown_s - now_s
