# SPDX-License-Identifier: Apache-2.0
"""`koren-console SETTINGS` serves the console that the settings file describes."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from koren_console.app import application
from koren_console.auth.users import UsersBroken
from koren_console.history import HistoryUnusable
from koren_console.listener import Connection, bound_handshakes
from koren_console.log import configure
from koren_console.settings import Settings, SettingsBroken
from koren_events.errors import ConfigurationError


def main() -> None:
    """Serve until a signal ends it."""
    if len(sys.argv) != 2:
        sys.exit("usage: koren-console SETTINGS (a JSON file)")
    configure()
    try:
        settings = Settings.load(Path(sys.argv[1]))
        app = application(settings)
    except (SettingsBroken, UsersBroken, HistoryUnusable, ConfigurationError, OSError) as error:
        sys.exit(f"koren-console: {error}")
    bound_handshakes()
    uvicorn.run(
        app,
        host=settings.address,
        port=settings.port,
        ssl_certfile=str(settings.tls.certificate),
        ssl_keyfile=str(settings.tls.key),
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing stands before it: an address that a header names is anybody's word.
        proxy_headers=False,
        http=Connection,
        ws="none",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
    )


if __name__ == "__main__":
    main()
