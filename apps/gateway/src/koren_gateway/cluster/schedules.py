"""Cron schedules: which moments an expression names in a time zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression of five fields, or a nickname such as `@daily`, in a time zone.

    Where a zone's clock is put forward, a moment that it leaves out comes right after. Where it is put back,
    a moment that it repeats comes once, except of expressions whose minute or hour begins with `*`.

    Raises ValueError that says what to give instead.
    """

    expression: str
    zone: str

    def __post_init__(self) -> None:
        if next(self.after(datetime.now(UTC)), None) is None:
            raise ValueError(f"schedule {self.expression!r} names no moment of the next 50 years")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The moments after `moment`, which has a time zone, in UTC and in order."""
        fields = _NICKNAMES.get(self.expression.strip().lower(), self.expression)
        if len(fields.split()) != 5:
            raise ValueError(
                f"schedule is {self.expression[:80]!r}; give minute, hour, day of the month, month and day of the "
                "week, e.g. '*/5 * * * *'"
            )
        try:
            found = CronSim(fields, moment.astimezone(zone_of(self.zone)))
        except CronSimError as error:
            raise ValueError(f"schedule is {self.expression[:80]!r}: {error}; e.g. '*/5 * * * *'") from None
        for local in found:
            at = local.astimezone(UTC)
            # It may go back where the clock is put back, and name a moment that is left out twice.
            if at > moment:
                moment = at
                yield at


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, ValueError):
        raise ValueError(f"timezone is {name[:80]!r}; give a name of the IANA database, e.g. Asia/Seoul") from None
