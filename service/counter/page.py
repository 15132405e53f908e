"""The page: each visit is counted, and shown its number."""

from quart import Blueprint, Response, current_app, request

from service.counter.replays import say_if_replayed
from service.counter.views import is_left_out, refuse_prefetch
from service.platform.idempotency import idempotency_key
from service.platform.request_data import read_body

COUNTER = "page"
"""The name of the page's own counter, which is made again should someone delete it."""

blueprint = Blueprint("page", __name__)


@blueprint.get("/")
async def hit() -> Response:
    """Counts the request, unless its Idempotency-Key was counted before: then it shows that number again.

    HEAD and prefetches are not hits, since they show no number, nor are crawlers where BOT_FILTER is on.
    """
    if request.method == "HEAD" or is_left_out():
        return _page("")
    refuse_prefetch()
    key = idempotency_key(request.headers)
    await read_body()
    receipt = await current_app.extensions["lanes"].hit(COUNTER, key=key, create=True)
    page = _page(f"<h1>Counter: {receipt.last}</h1>")
    say_if_replayed(page, receipt)
    return page


def _page(body: str) -> Response:
    return Response(body, content_type="text/html; charset=utf-8", headers={"Cache-Control": "no-store"})
