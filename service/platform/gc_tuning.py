"""Python's garbage collector, told what a worker is: a large application that stays, and many small requests.

By default it looks for cycles after each 700 new objects (2,000 from Python 3.13 on), and every hundredth time through
all of the application.
"""

import gc
from collections.abc import AsyncGenerator

from quart import Quart

THRESHOLD = 10_000
"""New objects before the collector looks for cycles among them; so many small ones are about a megabyte."""


def register(app: Quart) -> None:
    """While the application serves, spares the collector what is there when it begins. To be registered last."""

    @app.while_serving
    async def keep_apart() -> AsyncGenerator[None]:
        _, *others = before = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(THRESHOLD, *others)
        yield
        gc.set_threshold(*before)
        gc.unfreeze()
