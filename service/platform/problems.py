"""Error responses: a small page for clients that ask for HTML, Problem Details (RFC 9457) for the others.

None contains a traceback, a statement or an address. What each status promises about a request that changes something:
4xx and 503, it had no effect; 504, it is not known.
"""

import errno
import logging
from http import HTTPStatus

from markupsafe import escape
from quart import Quart, Response, has_request_context, json, request, websocket
from werkzeug.exceptions import GatewayTimeout, HTTPException, InternalServerError, ServiceUnavailable

from service.platform.database import OutcomeUnknown, Unavailable
from service.platform.logs import request_id

JSON_TYPES = ("application/problem+json", "application/json")
RETRY_AFTER = 1
"""Seconds after which a client may repeat a request that was answered 503."""

_RENAMED = {413: "content-too-large", 414: "uri-too-long", 416: "range-not-satisfiable", 422: "unprocessable-content"}
"""Slugs where the status's phrase differs between Python 3.11 and 3.13."""

_PAGE = """<!doctype html>
<html lang="en">
<meta name="viewport" content="width=device-width">
<title>{status} {title}</title>
<main>
<h1>{title}</h1>
<p>{detail}</p>
{request}</main>
"""
"""As nginx.conf's own."""

log = logging.getLogger(__name__)


class Problem(Exception):
    """An error for clients: status, slug of its type (`/problems/<slug>`) and a sentence that says what to do."""

    def __init__(self, status: int, slug: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.headers: dict[str, str] = {}


def register(app: Quart) -> None:
    """Handles every error of the application, including unknown routes and methods."""
    app.register_error_handler(HTTPException, _http_exception)
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(OSError, _os_error)
    app.register_error_handler(Unavailable, _unavailable)
    app.register_error_handler(OutcomeUnknown, _outcome_unknown)
    if not app.debug:
        app.register_error_handler(InternalServerError, _internal_server_error)


def problem(status: int, detail: str, slug: str | None = None) -> Response:
    """Returns the response for an error, in the format that the client accepts."""
    if _asks_for_json():
        return problem_details(status, detail, slug)
    title = HTTPStatus(status).phrase
    known = request_id()
    request = "" if known is None else f"<p>Request {known}</p>\n"
    page = _PAGE.format(status=status, title=title, detail=escape(detail), request=request)
    return Response(page, status, _headers(status), content_type="text/html; charset=utf-8")


def problem_details(status: int, detail: str, slug: str | None = None) -> Response:
    """Returns the response for an error as Problem Details; the default slug is made of the status's phrase."""
    title = HTTPStatus(status).phrase
    kind = "/problems/" + (slug or _RENAMED.get(status) or title.lower().replace(" ", "-"))
    body = {"type": kind, "title": title, "status": status, "detail": detail}
    if (known := request_id()) is not None:
        body["request_id"] = known
    return Response(json.dumps(body), status, _headers(status), content_type="application/problem+json")


def _headers(status: int) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER)
    return headers


def _asks_for_json() -> bool:
    accepted = (request if has_request_context() else websocket).accept_mimetypes
    if "text/html" not in accepted.values():  # as browsers do, and hardly anything else
        return True
    return accepted.best_match(("text/html", *JSON_TYPES)) in JSON_TYPES


async def _http_exception(error: HTTPException) -> Response:
    if error.response is not None or error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return error.get_response()  # type: ignore[return-value]  # a redirect, or an answer that was made by hand
    response = problem(error.code, error.description or "")
    for name, value in error.get_headers():
        response.headers.setdefault(name, value)
    return response


async def _os_error(error: OSError) -> Response:
    """A path that is too long for a file names nothing, in every view that sends files."""
    if error.errno != errno.ENAMETOOLONG or not has_request_context() or request.method not in {"GET", "HEAD"}:
        raise error
    return problem(HTTPStatus.NOT_FOUND, "There is nothing at this address.")


async def _problem(error: Problem) -> Response:
    response = problem(error.status, error.detail, error.slug)
    response.headers.update(error.headers)
    return response


async def _unavailable(error: Unavailable) -> Response:
    log.warning("answered 503: %s", error)
    return problem(ServiceUnavailable.code, error.public, "unavailable")


async def _outcome_unknown(error: OutcomeUnknown) -> Response:
    log.warning("answered 504: %s", error)
    return problem(GatewayTimeout.code, error.public, "outcome-unknown")


async def _internal_server_error(error: InternalServerError) -> Response:
    return problem(error.code, "Something went wrong here; it has been logged.")
