"""The counter's own settings, read as the platform's are (service/platform/settings.py)."""

from dataclasses import dataclass
from datetime import UTC, datetime

from environs import FileAwareEnv, ValidationError

from service.platform.job_schedule import next_due
from service.platform.settings import between, load


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterSettings:
    """Sizes are numbers of hits; the pool's, of connections. `lane_transactions`: how many a lane may have in flight.
    `receipt_retention` and `watch_interval` are in seconds."""

    auto_create: bool
    bot_filter: bool
    batch_size: int
    lane_queue_size: int
    worker_queue_size: int
    lane_pool_size: int
    lane_transactions: int
    receipt_retention: int
    roll_up_schedule: str
    watch_interval: float
    max_watchers: int


def load_counter_settings() -> CounterSettings:
    """Returns the counter's settings. Raises SettingsError."""
    return load(_read)


def _read(env: FileAwareEnv) -> CounterSettings:
    return CounterSettings(
        auto_create=env.bool("COUNTERS_AUTO_CREATE", False),
        bot_filter=env.bool("BOT_FILTER", False),
        batch_size=env.int("LANE_BATCH_SIZE", 1_000, validate=between(1, 10_000)),
        lane_queue_size=env.int("LANE_QUEUE_SIZE", 2_000, validate=between(1, 1_000_000)),
        worker_queue_size=env.int("WORKER_QUEUE_SIZE", 10_000, validate=between(1, 1_000_000)),
        lane_pool_size=env.int("LANE_POOL_SIZE", 7, validate=between(1, 1_000)),
        lane_transactions=env.int("LANE_TRANSACTIONS", 6, validate=between(1, 1_000)),
        receipt_retention=env.int("RECEIPT_RETENTION", 86_400, validate=between(86_400, 315_360_000)),
        watch_interval=env.float("WATCH_INTERVAL", 1.0, validate=between(0.05, 60)),
        max_watchers=env.int("MAX_WATCHERS", 2_000, validate=between(0, 100_000)),
        roll_up_schedule=env.str("ROLL_UP_SCHEDULE", "23 * * * *", validate=_is_schedule),
    )


def _is_schedule(text: str) -> None:
    if text:
        try:
            next_due(text, datetime.now(UTC))
        except ValueError as error:
            raise ValidationError(str(error)) from None
