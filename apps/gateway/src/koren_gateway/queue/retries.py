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


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often and how soon an event is tried again."""

    max_attempts: int
    """How often its handler may be entered."""
    max_deliveries: int
    """How often it may be handed out at all."""
    base_s: float
    cap_s: float


_LOST_AT_ONCE = 3
RETRY_AFTER_MAX_S = 86_400.0


def after_failure(
    policy: Policy,
    *,
    attempts: int,
    deliveries: int,
    lost: bool,
    dice: random.Random,
    reject: bool = False,
    retry_after_s: float | None = None,
) -> Retry | GiveUp:
    """Decides on a delivery that failed, or was `lost` with its pod.

    `attempts` is how often the handler was entered so far, `deliveries` how often the event was
    handed out. A handler may decline further attempts (`reject`) or say when the next is due
    (`retry_after_s`, at most a day).

    A lost delivery is tried again at once, for nothing says that the handler was at fault; it
    counts if the handler was entered, for one that kills its pod must not do so for ever. Other
    ones, and the fourth lost one and later, wait half to all of `base_s` doubled with every attempt,
    at most `cap_s`.
    """
    if reject or attempts >= policy.max_attempts or deliveries >= policy.max_deliveries:
        return GiveUp()
    if lost and deliveries <= _LOST_AT_ONCE:
        return Retry(0.0)
    if retry_after_s is not None:
        return Retry(min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S))
    exponent = max(attempts, deliveries - _LOST_AT_ONCE if lost else 0, 1) - 1
    full_s = min(policy.cap_s, policy.base_s * 2.0 ** min(exponent, 60))
    return Retry(full_s * dice.uniform(0.5, 1.0))
