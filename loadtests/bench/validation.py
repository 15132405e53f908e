"""What reading a hit's body and writing its answer costs: python -m loadtests.bench.validation.

Two ratios, each the median of rounds with the lowest and the highest: pydantic to msgspec, and a POST in Quart's test
client with quart-schema's extension and decorators to one that reads and writes by itself, as the API does.
"""

import asyncio
import statistics
import time
import timeit
from collections.abc import Callable
from typing import Annotated

import msgspec
import pydantic
from quart import Quart, Response, request
from quart_schema import QuartSchema, validate_request, validate_response

from service.counter.models import LARGEST_AMOUNT, Counted, NewHit

ROUNDS = 9
BODY = b'{"amount": 3}'
ANSWER = {"counter": "visits", "number": 3, "first": 1, "last": 3, "receipt": "0" * 32}


class PydanticHit(pydantic.BaseModel, extra="forbid"):
    amount: Annotated[int, pydantic.Field(ge=1, le=LARGEST_AMOUNT, strict=True)] = 1


class PydanticCounted(pydantic.BaseModel):
    counter: str
    number: int
    first: int
    last: int
    receipt: str


def by_msgspec() -> bytes:
    msgspec.json.decode(BODY, type=NewHit)
    return msgspec.json.encode(Counted(**ANSWER))  # type: ignore[arg-type]


def by_pydantic() -> str:
    PydanticHit.model_validate_json(BODY)
    return PydanticCounted(**ANSWER).model_dump_json()  # type: ignore[arg-type]


def counted(hit: NewHit) -> Counted:
    return Counted(**{**ANSWER, "number": hit.amount})  # type: ignore[arg-type]


alone, extended = Quart("alone"), Quart("extended")
QuartSchema(extended, conversion_preference="msgspec")


@alone.post("/")
async def count() -> Response:
    data = msgspec.json.decode(await request.get_data(as_text=False), type=NewHit)
    return Response(msgspec.json.encode(counted(data)), content_type="application/json")


@extended.post("/")
@validate_request(NewHit)
@validate_response(Counted)
async def count_extended(data: NewHit) -> Counted:
    return counted(data)


async def seconds_of(app: Quart, posts: int = 2_000) -> float:
    client = app.test_client()
    begun = time.perf_counter()
    for _ in range(posts):
        answer = await client.post("/", data=BODY, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200
    return time.perf_counter() - begun


def compare(name: str, of: Callable[[], float], to: Callable[[], float]) -> None:
    ratios = [of() / to() for _ in range(ROUNDS)]
    print(f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    compare(
        "pydantic / msgspec",
        lambda: timeit.timeit(by_pydantic, number=50_000),
        lambda: timeit.timeit(by_msgspec, number=50_000),
    )
    compare(
        "with quart-schema's extension / without",
        lambda: asyncio.run(seconds_of(extended)),
        lambda: asyncio.run(seconds_of(alone)),
    )
