"""What runs in a function's pod: asks the gateway for events and calls the handler.

For functions: `from koren_runtime import state`.

A pod's start is the cold start of an event, and imports are most of it. Modules here import only
what is built into the interpreter (`posix`, `_socket`, `_signal`, …: their comfortable wrappers
cost more time than the interpreter itself) and load the rest where something has gone wrong.
"""
