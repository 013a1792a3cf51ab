# SPDX-License-Identifier: Apache-2.0
"""What can go wrong. Each message names the thing and what to do about it."""

from __future__ import annotations


class FaasError(Exception):
    """Base of all errors that this package raises on purpose."""


class SiteError(FaasError):
    """The site does not have what was asked for."""


class NotReadyError(SiteError):
    """The site's state on this machine is missing or incomplete: it is not set up (yet)."""


class FunctionError(FaasError):
    """A function's description or source can't be accepted."""


class ConfigError(FaasError):
    """A file of functions can't be accepted."""


class SourceError(FaasError):
    """A source's description can't be accepted."""


class TriggerError(FaasError):
    """A trigger's description can't be accepted."""


class BuildError(FaasError):
    """A function's image can't be made."""


class NotDeployedError(FaasError):
    """The function is not in the regions that were asked."""


class RegionError(FaasError):
    """A region refused a request or did not answer.

    Attributes:
        status: HTTP status of the refusal, or None when there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class CallError(FaasError):
    """The function was called and did not succeed."""
