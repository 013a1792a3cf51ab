"""`python -m koren_gateway`: one replica, told what it is by the environment."""

import asyncio
import logging
import sys

import structlog
from pydantic import ValidationError

from koren_events import ConfigurationError
from koren_gateway.app import FUNCTIONS_NAMESPACE, GATEWAY_NAMESPACE, Gateway
from koren_gateway.cluster.kubernetes import Kubernetes
from koren_gateway.log import configure
from koren_gateway.settings import Settings, from_environment


def main() -> None:
    """Runs the gateway until it is told to stop."""
    try:
        settings = from_environment()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(map(str, problem["loc"])).upper()
            print(f"KOREN_GATEWAY_{name}: {problem['msg']}", file=sys.stderr)
        sys.exit(2)
    configure(settings.region, logging.INFO)
    try:
        asyncio.run(_run(settings))
    except (ConfigurationError, OSError) as error:
        structlog.get_logger().error("gateway can't start", problem=str(error))
        sys.exit(1)


async def _run(settings: Settings) -> None:
    cluster = Kubernetes.in_cluster(functions_in=FUNCTIONS_NAMESPACE, gateway_in=GATEWAY_NAMESPACE)
    await Gateway(settings, cluster).run()


if __name__ == "__main__":
    main()
