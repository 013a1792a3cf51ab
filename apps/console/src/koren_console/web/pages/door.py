# SPDX-License-Identifier: Apache-2.0
"""The log-in page, preferences, and pages for what went wrong."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from koren_console.auth.guard import own_path
from koren_console.web.pages.common import first, form
from koren_console.web.view import THEMES, View
from koren_console.web.words import LANGUAGES

YEAR_S = 31_536_000
ERRORS = ("wrong", "limited", "expired", "refused", "provider")


async def login(view: View) -> Response:
    """The form to sign in, or the link to the provider."""
    query = view.request.query_params
    after = own_path(query.get("next", ""))
    if view.user is not None:
        return RedirectResponse(after, 303)
    error = query.get("error", "")
    wait = query.get("wait", "")
    return view.page(
        "login.html",
        str(view.t("login.title")),
        error=error if error in ERRORS else "",
        wait=int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else 0,
        after=after,
    )


async def preferences(view: View) -> Response:
    """Keep the reader's language or theme in a cookie, then show the same page again."""
    sent = await form(view)
    path = first(sent, "back")
    # Only the form of the log-in page sends /login back, which `own_path` does not allow after log-in.
    back = path if path == "/login" else own_path(path)
    answer = RedirectResponse(back, 303)
    for name, allowed in (("language", LANGUAGES), ("theme", THEMES)):
        value = first(sent, name)
        if value in allowed:
            answer.set_cookie(
                name, value, max_age=YEAR_S, samesite="lax", httponly=True, secure=view.request.url.scheme == "https"
            )
    return answer


def failed(view: View, error: HTTPException) -> Response:
    """What happened, what it means and what to do, for an answer that is no page."""
    known = error.status_code if error.status_code in (400, 401, 403, 404, 405, 413, 500) else 400
    role = known == 403 and view.user is not None and not view.operator
    return view.page("failed.html", str(view.t(f"failed.{known}")), error.status_code, code=known, role=role)
