# SPDX-License-Identifier: Apache-2.0
"""The order of the tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a browser are last: Playwright's event loop runs in their thread from then on, which asyncio forbids."""
    items.sort(key=lambda item: item.path.parent.name == "page")
