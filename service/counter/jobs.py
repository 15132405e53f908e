"""The roll-up by itself: without it the receipts grow without end where an operator forgets it."""

import logging

from service.counter.roll_up import delete_left_over, roll_up
from service.counter.settings import CounterSettings
from service.platform import jobs
from service.platform.app import App
from service.platform.database import temporary_engine

log = logging.getLogger(__name__)


def register(app: App, settings: CounterSettings) -> None:
    """Has the workers roll up on ROLL_UP_SCHEDULE."""

    async def run() -> None:
        async with temporary_engine(app.settings.database) as engine:
            receipts = sum([one.receipts or 0 async for one in roll_up(engine, settings.receipt_retention)])
            left_over = await delete_left_over(engine)
        log.info("%d receipts rolled up, %d of deleted counters deleted", receipts, left_over)

    if settings.roll_up_schedule:
        jobs.add(app, jobs.Job("roll-up", settings.roll_up_schedule, run))
