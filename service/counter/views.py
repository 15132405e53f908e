"""What counts as a view of a page or an image: not what a browser fetches ahead, nor, with BOT_FILTER, a crawler.

And who has viewed it: a visitor of a day has a key, made of the network address and the browser's name, and neither is
kept. The key is used as an Idempotency-Key: within the day it gives the visitor's first number again.
"""

import functools
import hashlib
import re
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from quart import current_app, request

from service.counter.errors import PrefetchRefused

_LONGEST_AGENT = 512
"""Characters of a User-Agent that are looked at."""

_FOR_PEOPLE = re.compile("github-camo|GoogleImageProxy")
"""Proxies that fetch an image when somebody looks at it; the list of crawlers has them."""


def load_crawlers() -> None:
    """Loads the list of crawlers, in 0.2 s, for which no request is to wait."""
    import crawleruseragents  # noqa: PLC0415  # where the filter is on

    crawleruseragents.is_crawler("")


def refuse_prefetch() -> None:
    """Raises PrefetchRefused if a browser fetches ahead what nobody may ever look at.

    A browser shows a prefetched 2xx without another request, and the view would not be counted; for any other status it
    asks again (Chromium's PrefetchFailedNon2XX). Not 503, which operators, and our alerts, take for a failure
    (draft-ietf-httpbis-pre-denied, whose own 4xx has no number yet).
    """
    purposes = request.headers.get("Sec-Purpose", ""), request.headers.get("Purpose", "")
    if any(purpose.partition(";")[0].strip() == "prefetch" for purpose in purposes):
        raise PrefetchRefused


def is_left_out() -> bool:
    """Whether the bot filter is on, and the request comes from a crawler."""
    return current_app.extensions["lanes"].settings.bot_filter and _is_crawler(_agent())


def visitor_key(name: str) -> str:
    """Returns the key of the request's client for the counter and this day (UTC).

    It cannot be undone without SECRET_KEY. It begins with a line break, which no client can send, and which no token's
    name, by which the keys of that token's requests begin, has.
    """
    app: Any = current_app
    made_of = f"{datetime.now(UTC):%Y-%m-%d}\n{name}\n{_network(request.remote_addr or '')}\n{_agent()}"
    secret = hashlib.sha256(app.settings.secret_key.encode()).digest()
    return "\nvisitor " + hashlib.blake2b(made_of.encode(), key=secret, digest_size=16).hexdigest()


def _agent() -> str:
    return request.headers.get("User-Agent", "")[:_LONGEST_AGENT]


def _network(address: str) -> str:
    """Returns the address, of an IPv6 one the first 64 bits: browsers change the rest within a day.

    An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`), as sockets for both have it, is an IPv4 one.
    """
    try:
        found = ip_address(address)
    except ValueError:  # a Unix socket's peer has none
        return address
    if isinstance(found, IPv4Address):
        return address
    return str(found.ipv4_mapped or ip_network(f"{address}/64", strict=False))


@functools.lru_cache(1_000)
def _is_crawler(agent: str) -> bool:
    from crawleruseragents import is_crawler  # noqa: PLC0415  # where the filter is on

    return bool(is_crawler(agent)) and not _FOR_PEOPLE.search(agent)
