"""Jobs on a schedule: each runs once across all workers of all replicas, beside the requests.

Every worker has the schedule. When a job is due, each asks the database server for a lock of the job's name, and the one
that gets it runs the job. It keeps the lock for HOLD seconds at the least, so that one whose clock is behind finds it taken.
A worker that leaves ends its job within DRAIN seconds, or cancels it: a job should work in transactions, and be such that
it may be stopped after each and run again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NamedTuple

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.platform.app import App

HOLD = 10.0
"""Seconds by which the clocks of replicas may differ."""

DRAIN = 5.0
"""Seconds that a job has to end when its worker leaves."""

# A lock's name has 64 characters at the most, and is the server's, not the database's. MySQL 9.7 has no MD5.
_NAME = "CONCAT('job:', LEFT(SHA2(CONCAT(DATABASE(), ' ', :name), 256), 40))"
_LOCK, _RELEASE = (text(f"SELECT {function}") for function in (f"GET_LOCK({_NAME}, 0)", f"RELEASE_LOCK({_NAME})"))

log = logging.getLogger(__name__)
logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it says twice of each run what is said here once


class Job(NamedTuple):
    """`schedule`: when it is due, in UTC, as crontab(5) has it in five fields; `run`: what it does then."""

    name: str
    schedule: str
    run: Callable[[], Awaitable[None]]


def trigger(schedule: str) -> CronTrigger:
    """Returns the times of a schedule. Raises ValueError if it is malformed."""
    return CronTrigger.from_crontab(schedule, timezone="UTC")


def add(app: App, job: Job) -> None:
    """Has the workers run the job. It is called within the application's context, and its errors are logged."""
    running: set[asyncio.Task[None]] = set()

    @app.while_serving
    async def keep_the_schedule() -> AsyncGenerator[None]:
        engine: AsyncEngine = app.extensions["engine"]

        async def run() -> None:
            running.add(task := asyncio.create_task(_run(app, engine, job), name=f"job {job.name}"))
            task.add_done_callback(running.discard)

        scheduler = AsyncIOScheduler(timezone="UTC")
        # One that the worker was too busy to begin in time runs all the same, and once for several times.
        scheduler.add_job(run, trigger(job.schedule), misfire_grace_time=None, coalesce=True)
        scheduler.start()
        yield
        scheduler.shutdown(wait=False)
        if running:
            _, late = await asyncio.wait(running, timeout=DRAIN)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


async def _run(app: App, engine: AsyncEngine, job: Job) -> None:
    try:
        await run_once(app, engine, job)
    except Exception:
        log.exception("job %s failed", job.name)


async def run_once(app: App, engine: AsyncEngine, job: Job) -> bool:
    """Runs the job unless another worker does; returns whether it did. Raises what it raised, in an ExceptionGroup."""
    name = {"name": job.name}
    async with engine.connect() as connection:
        if (await connection.execute(_LOCK, name)).scalar() != 1:
            return False
        await connection.rollback()
        begun = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(_keep(connection, app.settings.database.idle_timeout / 3))
                async with app.app_context():
                    await job.run()
                took = time.monotonic() - begun
                log.info("job %s ended after %.1f s", job.name, took)
                await asyncio.sleep(HOLD - took)
                keeping.cancel()
        finally:
            with contextlib.suppress(exc.SQLAlchemyError):  # the connection was lost, and the lock with it
                await connection.execute(_RELEASE, name)
                await connection.rollback()
    return True


async def _keep(connection: AsyncConnection, interval: float) -> None:
    """Keeps the server from ending the session, and with it the lock; where it is lost the job is cancelled."""
    while True:
        await asyncio.sleep(interval)
        await connection.execute(text("DO 1"))
        await connection.rollback()
