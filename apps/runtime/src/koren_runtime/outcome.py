"""What a handler raises to say what becomes of its event, other than the usual retries."""

RETRY_MAX_S = 86400.0


class Reject(Exception):
    """The event can never be handled: it becomes a dead letter at once, with this message."""


class RetryAfter(Exception):
    """The event is to be tried again after `seconds`, a day at most. It counts as an attempt.

    Raises ValueError when `seconds` is no number from 0 on.
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        if not isinstance(seconds, int | float) or not seconds >= 0:
            raise ValueError(f"RetryAfter({seconds!r}): give seconds, 0 or more")
        self.seconds = min(float(seconds), RETRY_MAX_S)
        super().__init__(message or f"to be tried again after {self.seconds:g} s")

    def __reduce__(self) -> tuple[type, tuple[float, str]]:
        # So that it comes out of a pool's process as what it went in.
        return type(self), (self.seconds, str(self))
