"""Python's garbage collector, told what a worker is: many requests, each of many small objects.

By default it looks for cycles after each 700 new objects (2,000 from Python 3.13 on). What this gives stands in
docs/ceiling.md, step 5; gc.freeze gave nothing.
"""

import gc
from collections.abc import AsyncGenerator

from quart import Quart

THRESHOLD = 10_000
"""New objects before the collector looks for cycles among them; so many small ones are about a megabyte."""


def register(app: Quart) -> None:
    """Makes the collector look less often while the application serves."""

    @app.while_serving
    async def look_less_often() -> AsyncGenerator[None]:
        _, *others = before = gc.get_threshold()
        gc.set_threshold(THRESHOLD, *others)
        yield
        gc.set_threshold(*before)
