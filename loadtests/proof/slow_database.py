"""The service on a slow database, as an application for Hypercorn.

A transaction sleeps before it locks anything, which is the best case for stacks whose transactions serve one request.
"""

import os
from collections.abc import Iterable

from service import create_app
from service.counter import sessions
from service.platform.app import App
from service.platform.settings import load_settings

SLOW = float(os.environ.get("SLOW_DATABASE", "0"))
"""Seconds that each transaction that counts takes longer."""


class SlowSession(sessions.Session):
    """A lane's session on a slow database."""

    async def count(self, counter_id: int, hits: int, parts: Iterable[sessions.Part]) -> int | None:
        await self._run(f"DO SLEEP({SLOW})")
        return await super().count(counter_id, hits, parts)


def make() -> App:
    """Returns the service; its lanes' transactions take SLOW seconds longer."""
    if SLOW:
        sessions.Session = SlowSession  # type: ignore[misc]
    return create_app(load_settings())
