"""Badges: a counter's value as an image, and as shields.io's endpoint badge reads it."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response
from quart_schema import document_querystring, document_response

from service.counter import access, badge
from service.counter.models import Counter
from service.counter.names import check_name
from service.platform.openapi import media_types, problems
from service.platform.request_data import answer, query

SVG = "image/svg+xml"

Color = Annotated[
    str, Meta(pattern=badge.COLOR_PATTERN, description="A colour that shields.io names, or 3 or 6 hexadecimal digits.")
]
Label = Annotated[
    str,
    Meta(
        max_length=100,
        # What XML may not have; a line break at the end would be taken by Python's `$`.
        pattern="^[^\\x00-\\x1f\\x7f-\\x9f\ufffe\uffff]*$(?!\\n)",
        description="The text on the left, up to 100 characters without control characters; by default the name.",
    ),
]


class BadgeQuery(msgspec.Struct):
    """The query of a badge, in shields.io's terms."""

    label: Label | UnsetType = UNSET
    color: Color = "blue"
    label_color: Color = msgspec.field(name="labelColor", default="grey")
    style: Annotated[badge.Style, Meta(description="`flat`, `flat-square` or `plastic`.")] = "flat"
    cache_seconds: Annotated[int, Meta(ge=0, le=86_400, description="0 to 86,400; by default 0.")] = msgspec.field(
        name="cacheSeconds", default=0
    )


class ShieldsBadge(msgspec.Struct):
    """What https://shields.io/badges/endpoint-badge reads."""

    schema_version: int = msgspec.field(name="schemaVersion")
    label: str
    message: str
    color: str
    label_color: str = msgspec.field(name="labelColor")
    style: badge.Style


blueprint = Blueprint("badges", __name__, url_prefix="/counters")


@blueprint.get("/<name>/badge.svg")
@document_querystring(BadgeQuery)
@media_types(SVG)
@problems(400, 404, 503, 504)
async def image(name: str) -> Response:
    """The counter's value as a badge; reading it does not count."""
    found, asked = await _asked(name)
    response = svg(found.value, name, asked)
    _let_cache(response, found, asked)
    return response


@blueprint.get("/<name>/badge.json")
@document_querystring(BadgeQuery)
@document_response(ShieldsBadge)
@problems(400, 404, 503, 504)
async def endpoint(name: str) -> Response:
    """The counter's value for an endpoint badge of shields.io."""
    found, asked = await _asked(name)
    label = name if asked.label is UNSET else asked.label
    response = answer(ShieldsBadge(1, label, str(found.value), asked.color, asked.label_color, asked.style))
    _let_cache(response, found, asked)
    return response


def svg(value: int, name: str, asked: BadgeQuery) -> Response:
    """Returns the badge as a response that is not to be cached."""
    label = name if asked.label is UNSET else asked.label
    drawn = badge.badge(label, str(value), color=asked.color, label_color=asked.label_color, style=asked.style)
    return Response(drawn, headers={"Cache-Control": "no-store"}, content_type=f"{SVG}; charset=utf-8")


async def _asked(name: str) -> tuple[Counter, BadgeQuery]:
    check_name(name)
    asked = query(BadgeQuery)
    return await access.readable(name), asked


def _let_cache(response: Response, found: Counter, asked: BadgeQuery) -> None:
    if asked.cache_seconds:
        who = "private" if found.private else "public"  # a shared cache would show it to all
        response.headers["Cache-Control"] = f"{who}, max-age={asked.cache_seconds}"
