"""What can go wrong, as one small hierarchy."""


class EventsError(Exception):
    """Base of every error of this package."""


class InvalidEvent(EventsError, ValueError):
    """The event breaks the contract; the message names the field. Trying again won't help."""


class ConfigurationError(EventsError, ValueError):
    """A setting of the publisher can't be used: a file is missing, a name has a wrong form."""


class SpoolFull(EventsError):
    """The spool's limit is reached: the event was NOT taken, the caller still holds it."""


class SpoolInUse(EventsError):
    """Another publisher has this spool open; each needs a file (and a client id) of its own."""


class SpoolBroken(EventsError):
    """The spool's file can't be written or read any more; an event that was given was NOT taken."""


class PublishRefused(EventsError):
    """The broker answered that this client may not publish the event's topic."""


class ReceiptTimeout(EventsError, TimeoutError):
    """No receipt within the time given. The event stays in the spool and is still being sent."""
