"""Jobs on a schedule: when one is due it is run once, by one worker of all replicas, beside the requests.

Every worker has the schedule. When a job is due each tries to change its row of `job`, which the first can: so neither
clocks that differ nor a worker that is late have it run twice. The one at work says so every BEAT seconds. The job is
not begun again before it has ended, or has been silent for SILENCE seconds, as where its worker was killed. What was
due meanwhile, or while no worker served, is left out. A worker that leaves gives its job DRAIN seconds to end, and
cancels it then: so a job should work in small transactions, and take up the next time what is left.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from datetime import UTC, datetime

from sqlalchemy import text

from service.platform import job_commands, lifecycle, status
from service.platform.app import App
from service.platform.database import OutcomeUnknown, Unavailable, transaction
from service.platform.job_schedule import LEFT, SILENCE, Job, next_due

__all__ = ["Job", "add", "register"]

BEAT = 10.0
"""Seconds after which the worker at work says so again."""

DRAIN = 5.0
"""Seconds that a job has to end when its worker leaves."""

RETRY = 5.0
"""Seconds after which a worker that could not reach the database tries again to begin a job that is due."""

LOOK_AT_CLOCK = 30.0
"""Seconds between two looks at the clock, which may be set, at the most."""

_ADD = text("INSERT IGNORE INTO job (name) VALUES (:name)")
# What lies in the future is of a clock that has been set back since, and must not stop the job for as long.
_BEGIN = text(
    """UPDATE job
    SET due_at = :due, run = :run, started_at = UTC_TIMESTAMP(6), seen_at = UTC_TIMESTAMP(6),
        ended_at = NULL, error = NULL
    WHERE name = :name AND (
        run = :run
        OR :due <= UTC_TIMESTAMP() + INTERVAL :silence SECOND
        AND (due_at IS NULL OR due_at < :due OR due_at > UTC_TIMESTAMP() + INTERVAL :silence SECOND)
        AND (
            ended_at IS NOT NULL OR seen_at IS NULL
            OR ABS(TIMESTAMPDIFF(SECOND, seen_at, UTC_TIMESTAMP(6))) > :silence
        )
    )"""
).bindparams(silence=SILENCE)
_IS_AHEAD = text("SELECT :due > UTC_TIMESTAMP() + INTERVAL :silence SECOND").bindparams(silence=SILENCE)
_SEEN = text("UPDATE job SET seen_at = UTC_TIMESTAMP(6) WHERE name = :name AND run = :run")
_END = text("UPDATE job SET ended_at = UTC_TIMESTAMP(6), error = :error WHERE name = :name AND run = :run")

log = logging.getLogger(__name__)


class _TakenOver(Exception):
    """Another worker has begun the job, since this one was silent for too long."""


def add(app: App, one: Job) -> None:
    """Has the workers run the job. Raises ValueError if its schedule is malformed, or another has its name."""
    jobs: list[Job] = app.extensions["jobs"]
    next_due(one.schedule, datetime.now(UTC))
    if one.name in {other.name for other in jobs}:
        raise ValueError(f"there is a job {one.name} already")
    jobs.append(one)


def register(app: App) -> None:
    """Runs the jobs that are added while the application serves. Before the database's part, whose pool they use."""
    jobs: list[Job] = app.extensions.setdefault("jobs", [])
    tasks: list[asyncio.Task[None]] = []
    stopping = asyncio.Event()
    job_commands.register(app, jobs)
    status.add(app, job_commands.status_of(jobs))

    @app.before_serving
    async def start() -> None:
        tasks.extend(asyncio.create_task(_keep(app, one, stopping), name=f"job {one.name}") for one in jobs)

    @app.after_serving
    async def stop() -> None:
        stopping.set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DRAIN)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(app: App, one: Job, stopping: asyncio.Event) -> None:
    """Runs the job whenever it is due, until the worker leaves."""
    async with app.app_context():
        while not stopping.is_set():
            due, run = next_due(one.schedule, datetime.now(UTC)), uuid.uuid4().bytes
            while await _wait_until(due, stopping) and not lifecycle.draining():
                try:
                    if await begin(one, due, run):
                        await _run(one, run)
                    break
                except (Unavailable, OutcomeUnknown) as error:
                    log.warning("job %s is due, and the database cannot be used: %s", one.name, error)
                except Exception:  # a bug, which must not end the schedule
                    log.exception("job %s", one.name)
                await _wait(stopping, RETRY)


async def _wait_until(due: datetime, stopping: asyncio.Event) -> bool:
    """Returns whether the time has come; False if the worker leaves before."""
    while not stopping.is_set() and (left := (due - datetime.now(UTC)).total_seconds()) > 0:
        await _wait(stopping, min(left, LOOK_AT_CLOCK))
    return not stopping.is_set()


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


async def begin(one: Job, due: datetime, run: bytes) -> bool:
    """Notes that this worker runs the job, and returns whether it is to.

    Raises Unavailable, and OutcomeUnknown: called again for the same run, it says whether that had been noted.
    """
    this = {"name": one.name, "due": due.replace(tzinfo=None), "run": run}
    async with transaction() as connection:
        await connection.execute(_ADD, this)
        is_begun = (await connection.execute(_BEGIN, this)).rowcount == 1
        if not is_begun and (await connection.execute(_IS_AHEAD, this)).scalar():
            raise Unavailable(f"its clock is behind this worker's by more than {SILENCE} s")
    return is_begun


async def _run(one: Job, run: bytes) -> None:
    """Runs it, and notes its end. Raises Unavailable, OutcomeUnknown if that could not be noted."""
    begun, error = time.monotonic(), None
    try:
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(_beat(one, run))
            await one.run()
            beating.cancel()
    except asyncio.CancelledError:
        error = LEFT
        raise
    except ExceptionGroup as failed:
        error = f"{type(failed.exceptions[0]).__name__}: see the log"
        log.exception("job %s failed", one.name)
    finally:
        log.info("job %s ended after %.1f s", one.name, time.monotonic() - begun)
        async with transaction() as connection:
            await connection.execute(_END, {"name": one.name, "run": run, "error": error})


async def _beat(one: Job, run: bytes) -> None:
    """Says that this worker is at work, until it is cancelled. Raises _TakenOver."""
    while True:
        await asyncio.sleep(BEAT)
        try:
            async with transaction() as connection:
                seen = await connection.execute(_SEEN, {"name": one.name, "run": run})
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("job %s is at work, and the database cannot be used: %s", one.name, error)
            continue
        if seen.rowcount == 0:
            raise _TakenOver
