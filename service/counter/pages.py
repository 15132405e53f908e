"""The pages for browsers: a counter with its history, and the list of all.

They are answered at the paths of the API, to clients that prefer HTML, and need neither JavaScript nor another host.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec

from markupsafe import Markup
from quart import Blueprint, Response, current_app, render_template, send_from_directory, url_for

from service.counter import access, queries
from service.counter.models import Bucket, Counter, HistoryQuery, PageQuery
from service.counter.negotiation import HTML, prefers
from service.counter.span import span
from service.platform.app import App
from service.platform.request_data import query

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

SPANS = {"hour": timedelta(hours=24), "day": timedelta(days=30)}
"""What the chart shows unless it is asked for another span."""

YEAR = timedelta(days=365)
STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
FORMS = {"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d"}

_Arguments = ParamSpec("_Arguments")
_View = Callable[_Arguments, Awaitable[Response]]

_STATIC = Path(__file__).parent / "static"

blueprint = Blueprint("pages", __name__, template_folder="templates")


class Bar(NamedTuple):
    """An hour or a day of the chart; `height` is in per cent of the highest."""

    time: str
    hits: int
    height: int


def or_page(page: _View[_Arguments], *others: str) -> Callable[[_View[_Arguments]], _View[_Arguments]]:
    """Has a view of the API answer with a page where the client prefers HTML; all others get what they always got.

    `others` are the media types that the view has besides JSON.
    """

    def decorate(view: _View[_Arguments]) -> _View[_Arguments]:
        @wraps(view)
        async def answer(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> Response:
            response = await (page if prefers(*others, HTML) == HTML else view)(*arguments, **named)
            response.vary.add("Accept")
            return response

        return answer

    return decorate


async def counter(name: str) -> Response:
    """The page of a counter."""
    asked = query(HistoryQuery)
    start, end = span(asked, SPANS[asked.by])
    counter_id, found = await access.readable_with_id(name)
    hits = await queries.hits_of(counter_id, asked.by, start, end)
    year = f"{datetime.now(UTC) - YEAR:%Y-%m-%dT00:00:00Z}"
    spans = {"A day": "by=hour", "30 days": "by=day", "A year": f"by=day&from={year}"}
    return await _page(
        "counter.html",
        counter=found,
        by=asked.by,
        hits=hits,
        bars=bars(hits, asked.by, start, end),
        spans={label: f"{url_for('api.counter', name=name)}?{chosen}" for label, chosen in spans.items()},
        form=FORMS[asked.by],
        snippets=snippets(found),
    )


async def counters() -> Response:
    """The page that lists the counters."""
    asked = query(PageQuery)
    names, has_more = await access.names(asked)
    return await _page("counters.html", names=names, limit=asked.limit, has_more=has_more)


@blueprint.get("/assets/<asset>")
async def asset(asset: str) -> Response:
    """What the pages load, which browsers revalidate at each use: after an upgrade none is an old one."""
    return await send_from_directory(_STATIC, asset, cache_timeout=0)


def bars(hits: list[Bucket], by: Literal["hour", "day"], start: datetime, end: datetime) -> list[Bar]:
    """Returns a bar for each hour or day of the span, oldest first, also for those without hits."""
    of_time = {bucket.time: bucket.hits for bucket in hits}
    highest = max(of_time.values(), default=0)
    time = start if by == "hour" else start.replace(hour=0)
    found = []
    while time < end:
        number = of_time.get(time, 0)
        found.append(Bar(f"{time:{FORMS[by]}}", number, max(1, round(100 * number / highest)) if number else 0))
        time += STEPS[by]
    return found


def snippets(shown: Counter) -> dict[str, str]:
    """Returns what shows the counter on other pages, by its name; nothing for a private one.

    The script only where pages of other origins may count.
    """
    ways = {} if shown.private else {"": "badges.image"}
    if ways and shown.image_hits:
        ways[" that counts loads"] = "image_hits.hit"
    found = {}
    for what, endpoint in ways.items():
        url = url_for(endpoint, name=shown.name, _external=True)
        found[f"Markdown{what}"] = f"![{shown.name}]({url})"
        found[f"HTML{what}"] = f'<img src="{url}" alt="{shown.name}">'
    app: App = current_app  # type: ignore[assignment]
    if ways and app.settings.cors_origins:
        url = url_for("api.hit", name=shown.name, _external=True)
        found["Script that counts views, with a publishable token in the place of PUBLISHABLE"] = (
            f'<span id="{shown.name}"></span><script>fetch("{url}",'
            '{method:"POST",headers:{Authorization:"Bearer PUBLISHABLE",Accept:"text/plain"}})'
            '.then(r=>r.ok?r.text():"")'
            f'.then(n=>{{document.getElementById("{shown.name}").textContent=n.trim()}})</script>'
        )
    return found


def grouped(number: int) -> Markup:
    """Returns the number in groups of three digits, between which a line may end."""
    return Markup(f"{number:,}".replace(",", ",<wbr>"))  # noqa: S704  # digits alone


async def _page(template: str, **values: object) -> Response:
    text = await render_template(template, **values, grouped=grouped)
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": POLICY}
    return Response(text, headers=headers, content_type="text/html; charset=utf-8")
