# SPDX-License-Identifier: Apache-2.0
"""The page's own texts, in Korean and English."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from markupsafe import Markup, escape

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


@cache
def texts() -> dict[str, list[str]]:
    """Each key with its Korean, its English and, where it differs, its English for one."""
    return tomllib.loads(resources.files(__package__).joinpath("words.toml").read_text("utf-8"))


def text(language: Language, key: str, **values: Any) -> Markup:
    """The text of `key` with `values` in its places; what is not markup is escaped.

    With `n` equal to 1 English has its singular. Raises `KeyError` for a key that there is none of.
    """
    korean, english, *one = texts()[key]
    template = korean if language == "ko" else one[0] if one and values.get("n") in (1, "1") else english
    return Markup(escape(template)).format(**values) if values else Markup(escape(template))


def preferred(cookie: str | None, accept: str) -> Language:
    """The language of the reader's choice, else the first of `Accept-Language` that there is, else Korean."""
    for language in LANGUAGES:
        if cookie == language:
            return language
    ranked = []
    for place, part in enumerate(accept.split(",")):
        name, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((-float(quality or 1), place, name.lower().split("-")[0]))
        except ValueError:
            continue
    return next((language for _, _, name in sorted(ranked) for language in LANGUAGES if name == language), "ko")
