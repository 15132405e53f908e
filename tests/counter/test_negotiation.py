"""The form of an answer, by what the client accepts."""

import pytest
from quart import Quart

from service.counter.negotiation import HTML, JSON, TEXT, prefers

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/json, text/plain, */*", JSON),  # a JavaScript client's
        ("text/plain", TEXT),
        ("text/plain, */*", TEXT),
        ("text/plain;q=0.5, application/json;q=0.9", JSON),
        ("text/plain;q=0", JSON),
        (BROWSER, HTML),
        ("text/event-stream", JSON),
        ("text/" + "x" * 8_000, JSON),
        ("text/\xff\x00;q=\xe9", JSON),
    ],
)
async def test_the_form_is_json_unless_another_is_named_and_preferred(accept: str | None, form: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    async with Quart(__name__).test_request_context("/", headers=headers):
        assert prefers(HTML, TEXT) == form
        assert prefers() == JSON
