"""The region's triggers as the Function API shows them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from koren_events.times import format_time
from koren_gateway.cluster.functions import Functions
from koren_gateway.cluster.triggers import CRON, MQTT, CronTrigger, MqttTrigger, Trigger, Triggers
from koren_gateway.intake.cron import Cron
from koren_gateway.queue.pauses import Pauses


class TriggerList:
    """Every trigger with how it stands."""

    def __init__(self, functions: Functions, triggers: Triggers, pauses: Pauses, cron: Cron) -> None:
        self._functions = functions
        self._triggers = triggers
        self._pauses = pauses
        self._cron = cron

    @property
    def in_step(self) -> bool:
        """Whether it is known which functions get an event."""
        return self._functions.in_step and self._triggers.in_step

    async def state(self) -> list[Mapping[str, Any]]:
        """The triggers by name: those of Deployments and of ConfigMaps, then those that are refused, with the reason.
        Raises StoreUnavailable."""
        own: list[Trigger] = [
            MqttTrigger(
                name=function.trigger,
                function=function.name,
                topic=function.topic,
                paused=function.paused,
                delay_s=function.delay_s,
            )
            for function in self._functions.all()
            if function.topic is not None
        ]
        last = await self._cron.last()
        shown = [
            await self._shown(trigger, last.get(trigger.name))
            for trigger in sorted([*own, *self._triggers.all()], key=lambda trigger: trigger.name)
        ]
        return shown + [
            {"name": one.name, "kind": one.kind, "function": one.function, "paused": False, "problem": one.problem}
            for one in self._triggers.refused()
        ]

    async def _shown(self, trigger: Trigger, last: datetime | None) -> Mapping[str, Any]:
        if self._functions.get(trigger.function) is None:
            paused = trigger.paused
            problem = f"function {trigger.function} is not in this region; deploy it, or delete the trigger"
        else:
            # What the queue goes by, which may be a moment behind what is declared.
            paused = trigger.name in await self._pauses.of(trigger.function)
            problem = None
        shown = {"name": trigger.name, "function": trigger.function, "paused": paused, "problem": problem}
        match trigger:
            case MqttTrigger():
                return {**shown, "kind": MQTT, "topic": trigger.topic, "delay_s": trigger.delay_s}
            case CronTrigger():
                following = next(trigger.schedule.after(datetime.now(UTC)), None)
                return {
                    **shown,
                    "kind": CRON,
                    "schedule": trigger.schedule.expression,
                    "timezone": trigger.schedule.zone,
                    "starting_deadline_s": trigger.deadline_s,
                    "last": None if last is None else format_time(last),
                    "next": None if following is None else format_time(following),
                }
        return shown
