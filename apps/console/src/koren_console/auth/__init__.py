# SPDX-License-Identifier: Apache-2.0
"""Who looks, and what they may do: log-in, sessions, protection of forms."""

from koren_console.auth.audit import Audit
from koren_console.auth.guard import Auth, Guard, SecurityHeaders, User

__all__ = ["Audit", "Auth", "Guard", "SecurityHeaders", "User"]
