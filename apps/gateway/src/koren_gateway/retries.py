"""What follows a failed attempt."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retry:
    """The event is tried again."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The event becomes a dead letter."""


def after_failure(
    *,
    attempt: int,
    max_attempts: int,
    lost: bool,
    base_s: float,
    cap_s: float,
    dice: random.Random,
) -> Retry | GiveUp:
    """Decides on attempt number `attempt` (from 1) that failed, or was `lost` with its pod.

    A lost one is tried again at once, for nothing says that the handler was at fault; it counts,
    for a handler that kills its pod must not do so for ever. A failed one waits half to all of
    `base_s` doubled with every attempt, at most `cap_s`.
    """
    if attempt >= max_attempts:
        return GiveUp()
    if lost:
        return Retry(0.0)
    full_s = min(cap_s, base_s * 2.0 ** (attempt - 1))
    return Retry(full_s * dice.uniform(0.5, 1.0))
