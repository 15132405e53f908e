"""What a job on a schedule is, its table, and when it is due."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple

from cronsim import CronSim, CronSimError
from sqlalchemy import Column, Table
from sqlalchemy.dialects.mysql import BINARY, DATETIME, VARCHAR

from service.platform.database import TABLE_OPTIONS, metadata

SILENCE = 60
"""Seconds without a word of the worker at work after which another may begin the job."""

LEFT = "stopped, since its worker left"
"""The `error` of a job that had not ended in time. It is run again when it is due the next time."""

job = Table(
    "job",
    metadata,
    Column("name", VARCHAR(63, charset="ascii", collation="ascii_bin"), primary_key=True),
    Column("due_at", DATETIME(), nullable=True),
    Column("run", BINARY(16), nullable=True),
    Column("started_at", DATETIME(fsp=6), nullable=True),
    Column("seen_at", DATETIME(fsp=6), nullable=True),
    Column("ended_at", DATETIME(fsp=6), nullable=True),
    Column("error", VARCHAR(200), nullable=True),
    **TABLE_OPTIONS,
)
"""A row holds when a job was due the last time and, by the database's clock, what became of it. Times are in UTC. `run`
is the worker's own name for that run."""


class Job(NamedTuple):
    """`schedule`: when it is due, in UTC, as crontab(5) has it, or with a field for seconds before the five.

    `run`: what it does, in the application's context.
    """

    name: str
    schedule: str
    run: Callable[[], Awaitable[object]]


def next_due(schedule: str, after: datetime) -> datetime:
    """Returns when it is due next. Raises ValueError if the schedule is malformed or never due."""
    try:
        return next(CronSim(schedule, after))
    except (CronSimError, StopIteration):
        raise ValueError("it must be a schedule of crontab(5): minute, hour, day, month and weekday") from None
