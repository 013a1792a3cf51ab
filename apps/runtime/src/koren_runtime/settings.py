"""What the pod's environment says, read once."""

import posix

DEFAULT_GATEWAY = "gateway.koren-faas.svc:8080"
DEFAULT_TOKEN = "/var/run/secrets/koren/token"
DEFAULT_FOLDER = "/function"

WORKER = "KOREN_WORKER"
"""Variable that the function and all its children have: they are not to be a second runtime."""
INVOCATION_FILE = "KOREN_INVOCATION_FILE"
"""Variable with the path of a file that says, in two lines, which invocation and which attempt the
function has in hand. A process that a function keeps from event to event finds each one there."""
INVOCATION_FILE_BYTES = 1024


CONCURRENCY_MAX = 32
"""How many events a pod may have in hand; the gateway knows no more slots."""


class BadSetting(Exception):
    """A variable of the environment can't be used; the message names it."""


class Settings:
    """The function as its pod describes it (Kubeless's variables), and where the gateway is."""

    __slots__ = (
        "concurrency",
        "folder",
        "gateway_host",
        "gateway_port",
        "handler",
        "memory_limit",
        "module",
        "runtime",
        "timeout_s",
        "token_path",
    )

    def __init__(self, environment: dict[str, str]) -> None:
        """Raises BadSetting."""
        self.module = _needed(environment, "MOD_NAME")
        self.handler = _needed(environment, "FUNC_HANDLER")
        self.runtime = environment.get("FUNC_RUNTIME", "")
        self.memory_limit = environment.get("FUNC_MEMORY_LIMIT", "")
        self.folder = environment.get("KOREN_FUNCTION_FOLDER", DEFAULT_FOLDER)
        self.token_path = environment.get("KOREN_TOKEN", DEFAULT_TOKEN)
        self.gateway_host, self.gateway_port = gateway_address(environment)
        text = environment.get("FUNC_TIMEOUT", "180")
        try:
            self.timeout_s = float(text)
        except ValueError:
            self.timeout_s = 0.0
        if not 0 < self.timeout_s < 86400:
            raise BadSetting(f"FUNC_TIMEOUT is {text!r}; give seconds, more than 0 and up to a day")
        text = environment.get("FUNC_CONCURRENCY", "1")
        self.concurrency = int(text) if text.isascii() and text.isdigit() and len(text) <= 2 else 0
        if not 0 < self.concurrency <= CONCURRENCY_MAX:
            raise BadSetting(f"FUNC_CONCURRENCY is {text!r}; give a number from 1 to {CONCURRENCY_MAX}")


def gateway_address(environment: dict[str, str]) -> tuple[str, int]:
    """Host and port in KOREN_GATEWAY. Raises BadSetting."""
    text = environment.get("KOREN_GATEWAY") or DEFAULT_GATEWAY
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise BadSetting(f"KOREN_GATEWAY is {text!r}; give host:port, e.g. {DEFAULT_GATEWAY}")
    return host.strip("[]"), int(port)


def environment() -> dict[str, str]:
    """The process's environment as text."""
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in posix.environ.items()
    }


def _needed(environment: dict[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise BadSetting(f"{name} is not set; the function's Deployment must give it")
    return value
