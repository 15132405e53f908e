"""The span of time of a history."""

from datetime import UTC, datetime, timedelta

from msgspec import UNSET

from service.counter.models import HistoryQuery
from service.platform.request_data import MalformedParameter

LONGEST = {"hour": timedelta(days=31), "day": timedelta(days=3 * 365 + 1)}
"""The longest span of a history."""


def span(asked: HistoryQuery, default: timedelta) -> tuple[datetime, datetime]:
    """Returns `from` and `to`, rounded down and up to whole hours, in UTC; `default` is their distance without `from`.

    Raises MalformedParameter.
    """
    out_of_range = MalformedParameter("`from` and `to` must be in the years 1970 to 9998.")
    try:
        to = datetime.now(UTC) if asked.to is UNSET else asked.to.astimezone(UTC)
        start = to - default if asked.from_ is UNSET else asked.from_.astimezone(UTC)
    except OverflowError:
        raise out_of_range from None
    if not 1970 <= start.year <= 9998 or not 1970 <= to.year <= 9998:
        raise out_of_range
    if start >= to:
        raise MalformedParameter("`from` must be before `to`.")
    if to - start > LONGEST[asked.by]:
        raise MalformedParameter(f"By {asked.by}, a history has {LONGEST[asked.by].days} days at the most.")
    return _whole_hour(start), _whole_hour(to + timedelta(hours=1, microseconds=-1))


def _whole_hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)
