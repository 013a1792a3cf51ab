# SPDX-License-Identifier: Apache-2.0
"""Links from the pages to files of the repository outside docs/ lead to the repository on the web."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
REPO = DOCS.parent
log = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page with such links replaced. A missing file is a warning, which fails a strict build."""

    def replaced(link: re.Match[str]) -> str:
        target = (DOCS / page.file.src_uri).parent.joinpath(link[1]).resolve()
        if not target.is_relative_to(REPO) or target.is_relative_to(DOCS):
            return link[0]
        if not target.exists():
            log.warning("%s: no such file: %s", page.file.src_uri, link[1])
        return f"]({config.repo_url}/blob/main/{target.relative_to(REPO)}{link[2] or ''})"

    return re.sub(r"\]\((\.\.[^)#\s]*)(#[^)\s]*)?\)", replaced, markdown)
