"""hit.svg: a badge whose loads count, for counters whose owner allows it. Anybody may load an image, from anywhere."""

from quart import Blueprint, Response, current_app, request
from quart_schema import document_querystring

from service.counter import queries
from service.counter.badges import SVG, BadgeQuery, svg
from service.counter.errors import NoSuchCounter
from service.counter.names import check_name
from service.counter.options import options
from service.counter.replays import say_if_replayed
from service.counter.views import is_left_out, refuse_prefetch, visitor_key
from service.platform.database import Unavailable
from service.platform.openapi import media_types, problems
from service.platform.problems import Problem
from service.platform.request_data import query, read_body

NEVER_CACHED = {"Cache-Control": "no-cache, no-store, max-age=0", "Expires": "Thu, 01 Jan 1970 00:00:00 GMT"}
"""What has GitHub's camo ask each time, too; an entity tag would have it answered from its cache."""

blueprint = Blueprint("image_hits", __name__, url_prefix="/counters")


@blueprint.get("/<name>/hit.svg")
@document_querystring(BadgeQuery)
@media_types(SVG)
@problems(400, 403, 404, 409, 429, 503, 504)
async def hit(name: str) -> Response:
    """Counts one, and shows its number as a badge. HEAD, prefetches and, with BOT_FILTER, crawlers do not count."""
    check_name(name)
    asked = query(BadgeQuery)
    await read_body()
    refuse_prefetch()
    if request.method == "HEAD" or is_left_out():
        await options().with_images(name)
        found = await queries.read(name)
        if found is None or found.private:
            raise NoSuchCounter
        response = svg(found.value, name, asked)
    else:
        counter, minute = await options().admit_image(name)
        key = visitor_key(name) if counter.views == "visitors" else None
        try:
            receipt = await current_app.extensions["lanes"].hit(name, key=key)
        except (Problem, Unavailable):  # it did not count
            minute.images -= 1
            raise
        response = svg(receipt.last, name, asked)
        if say_if_replayed(response, receipt):
            minute.images -= 1
    response.headers.update(NEVER_CACHED)
    return response
