# SPDX-License-Identifier: Apache-2.0
"""The page: views rendered on the server, kept up to date by server-sent events."""

from koren_console.web.routes import errors, routes

__all__ = ["errors", "routes"]
