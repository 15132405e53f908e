"""Query strings are read by the struct that documents them."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta
from quart import Quart

from service.platform.request_data import MalformedParameter, query


class Asked(msgspec.Struct):
    since: Annotated[datetime, Meta(tz=True, description="RFC 3339.")] = datetime(2000, 1, 1, tzinfo=UTC)
    limit: Annotated[int, Meta(ge=1, le=100, description="1 to 100.")] = 20
    by: Literal["hour", "day"] = "hour"


@pytest.mark.parametrize(
    ("string", "asked"),
    [
        ("", Asked()),
        ("limit=7&by=day", Asked(limit=7, by="day")),
        ("limit=7&limit=8&other=x", Asked(limit=7)),
        ("since=2026-01-02T03:04:05Z", Asked(since=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))),
    ],
)
async def test_a_query_string_is_read_by_its_struct(string: str, asked: Asked) -> None:
    async with Quart(__name__).test_request_context(f"/?{string}"):
        assert query(Asked) == asked


@pytest.mark.parametrize(
    ("string", "detail"),
    [
        ("limit=0", "`limit`: Expected `int` >= 1. 1 to 100."),
        ("limit=1e1", "`limit`: Expected `int`, got `str`. 1 to 100."),
        ("limit=" + "9" * 5000, "`limit`: Expected `int`, got `str`. 1 to 100."),
        ("since=1700000000", "`since`: Invalid RFC3339 encoded datetime. RFC 3339."),
        ("since=2026-01-02T03:04:05", "`since`: Expected `datetime` with a timezone component. RFC 3339."),
        ("by=week", "`by`: Invalid enum value 'week'."),
    ],
)
async def test_what_does_not_fit_is_refused_by_the_name_of_its_field(string: str, detail: str) -> None:
    async with Quart(__name__).test_request_context(f"/?{string}"):
        with pytest.raises(MalformedParameter) as refused:
            query(Asked)
    assert refused.value.detail == detail
