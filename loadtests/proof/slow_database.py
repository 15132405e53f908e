"""The service on a slow database, as an application for Hypercorn.

A transaction sleeps before it locks anything, which is the best case for stacks whose transactions serve one request.
"""

import os
from typing import Any

import aiomysql

from service import create_app
from service.platform.app import App
from service.platform.settings import load_settings

SLOW = float(os.environ.get("SLOW_DATABASE", "0"))
"""Seconds that each transaction that counts takes longer."""

COUNTS = "UPDATE counter SET"
"""The statement of a transaction that counts."""


_execute = aiomysql.Cursor.execute


async def _sleep_and_execute(cursor: aiomysql.Cursor, query: str, args: Any = None) -> Any:
    if COUNTS in query:
        await _execute(cursor, f"DO SLEEP({SLOW})")
    return await _execute(cursor, query, args)


def make() -> App:
    """Returns the service; its transactions that count take SLOW seconds longer."""
    if SLOW:
        aiomysql.Cursor.execute = _sleep_and_execute
    return create_app(load_settings())
