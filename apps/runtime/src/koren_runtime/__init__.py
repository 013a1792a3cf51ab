"""What runs in a function's pod: asks the gateway for events and calls the handler.

For functions: `from koren_runtime import state, Reject, RetryAfter`.

A pod's start is the cold start of an event, and imports are most of it. Modules here import only
what is built into the interpreter (`posix`, `_socket`, `_signal`, …: their comfortable wrappers
cost more time than the interpreter itself) and load the rest where something has gone wrong.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from koren_runtime.outcome import Reject as Reject
    from koren_runtime.outcome import RetryAfter as RetryAfter


def __getattr__(name: str) -> object:
    if name in ("Reject", "RetryAfter"):
        from koren_runtime import outcome

        return getattr(outcome, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
