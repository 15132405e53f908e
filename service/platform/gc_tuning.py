"""The garbage collector's threshold for a worker, which makes many small objects for each request.

The default is 700 new objects (2,000 from Python 3.13 on). The gain is in docs/ceiling.md, step 5; gc.freeze had none.
"""

import gc
from collections.abc import AsyncGenerator

from quart import Quart

THRESHOLD = 10_000
"""New objects before a collection; small ones take about a megabyte."""


def register(app: Quart) -> None:
    """Sets the threshold while the application serves."""

    @app.while_serving
    async def look_less_often() -> AsyncGenerator[None]:
        _, *others = before = gc.get_threshold()
        gc.set_threshold(THRESHOLD, *others)
        yield
        gc.set_threshold(*before)
