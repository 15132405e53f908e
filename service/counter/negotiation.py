"""Which form of an answer a client asks for by its Accept header. JSON is the form of those that name no other."""

from quart import Response, request

JSON = "application/json"
HTML = "text/html"
TEXT = "text/plain"


def prefers(*others: str) -> str:
    """Returns the media type that the client wants: JSON, or one of the `others` that it names and ranks higher."""
    if "text/" not in request.headers.get("Accept", ""):  # most requests, for which nothing is parsed
        return JSON
    return request.accept_mimetypes.best_match((JSON, *others), default=JSON)


def text(number: int) -> Response:
    """Returns the number as a line of plain text, for scripts."""
    return Response(f"{number}\n", headers={"Cache-Control": "no-store"}, content_type="text/plain; charset=utf-8")
