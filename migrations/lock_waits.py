"""Waits for what others use. A statement waits shortly for it and tries again after a pause, a number of times.

While a statement waits for a table's metadata lock, by default for a year, every later one on that table waits behind
it: a long transaction in the way of a migration stops all traffic. In the pauses the traffic goes on.
"""

import logging
import re
from functools import partial
from typing import Any

import pymysql
from sqlalchemy import Engine, event
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from migrations.exits import Exit, give_up
from service.platform.mysql_errors import ER_LOCK_WAIT_TIMEOUT

log = logging.getLogger("migrations")

LOCK_WAIT = 1
"""Seconds for which a statement waits for a table's metadata lock, and so for which others wait behind it: the least
that both servers know, and less than DB_LOCK_TIMEOUT is by default, after which a request fails."""

LONGEST_PAUSE = 10
"""Seconds between two attempts; the first pause is one second, and each is twice the one before."""

_CHANGES_SCHEMA = re.compile(r"\s*(?:ALTER|CREATE|DROP|RENAME|TRUNCATE)\b", re.IGNORECASE)

# Who holds a metadata lock, MariaDB does not say by default; the oldest transaction is the likeliest. innodb_trx has
# the times of the machine's time zone.
_OLDEST = """
    SELECT id, user, host, TIMESTAMPDIFF(SECOND, CONVERT_TZ(trx_started, 'SYSTEM', '+00:00'), UTC_TIMESTAMP()) AS age
    FROM information_schema.innodb_trx JOIN information_schema.processlist ON id = trx_mysql_thread_id
    WHERE id <> CONNECTION_ID() HAVING age >= %s ORDER BY age DESC LIMIT 1
"""

_MAY_NOT_SEE = (
    "which is in the way, the migration user may not see: as an administrator, SELECT * FROM "
    "information_schema.innodb_trx ORDER BY trx_started, or GRANT PROCESS ON *.* to the migration user"
)
_NONE = "no transaction is that old: SHOW PROCESSLIST has who may hold it otherwise, as by LOCK TABLES"


def retry_where_locked(engine: Engine, attempts: int) -> None:
    """Has the engine execute each statement up to `attempts` times, and then end the process with TEMPFAIL."""

    @event.listens_for(engine, "do_execute")
    def execute(cursor: Any, statement: str, parameters: Any, _context: object) -> bool:
        Retrying(
            retry=retry_if_exception(partial(_may_be_tried_again, cursor, statement)),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(max=LONGEST_PAUSE),
            before_sleep=partial(_report, cursor, attempts),
            retry_error_callback=partial(_end, cursor, attempts),
        )(cursor.execute, statement, parameters)
        return True  # so that SQLAlchemy does not execute it, too


def _may_be_tried_again(cursor: Any, statement: str, error: BaseException) -> bool:
    """Not where the server has rolled back what was written before the statement, too."""
    if not isinstance(error, pymysql.err.OperationalError) or error.args[0] != ER_LOCK_WAIT_TIMEOUT:
        return False
    cursor.execute("SELECT @@innodb_rollback_on_timeout")
    return _CHANGES_SCHEMA.match(statement) is not None or not cursor.fetchone()[0]


def _report(cursor: Any, attempts: int, state: RetryCallState) -> None:
    log.warning(
        "waiting for a table or row that others use: attempt %d of %d was refused (%s)",
        state.attempt_number,
        attempts,
        _in_the_way(cursor),
    )


def _end(cursor: Any, attempts: int, _state: RetryCallState) -> None:
    give_up(
        Exit.TEMPFAIL,
        f"A table or row that the migration changes was in use at each of {attempts} attempts (MIGRATION_ATTEMPTS), and"
        f" nothing was changed by this statement; {_in_the_way(cursor)}. Wait for it to end, or KILL it, and run the"
        " migration again.",
    )


def _in_the_way(cursor: Any) -> str:
    """Returns in words which transaction is the oldest, or how to find out what is in the way."""
    try:
        cursor.execute(_OLDEST, (LOCK_WAIT,))
    except pymysql.err.MySQLError:
        return _MAY_NOT_SEE
    oldest = cursor.fetchone()
    if oldest is None:
        return _NONE
    process, user, host, age = oldest
    return f"the oldest transaction is that of process {process}, user {user!r} from {host}, for {age} s"
