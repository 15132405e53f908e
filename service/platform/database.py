"""The worker's own engine and pool, and transactions with three outcomes: committed, not committed, unknown.

Limits come from the settings. Every session is READ COMMITTED, in UTC, and its time-outs are shorter than its client's.
The pool never hands out a dead connection, nor one with an unread result.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from quart import current_app
from sqlalchemy import URL, AsyncAdaptedQueuePool, Engine, MetaData, NullPool, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.platform import driver
from service.platform.app import App
from service.platform.mysql_errors import ER_NO_SUCH_TABLE
from service.platform.settings import DatabaseSettings

NAMING_CONVENTION = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING_CONVENTION)
"""Every table of the application belongs to it; the migration environment compares it with the database."""

CHARSET = "utf8mb4"
COLLATION = "utf8mb4_unicode_ci"
"""MySQL and MariaDB both know it."""

SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION"
"""A value that does not fit is an error, never cut, whatever the server's default is."""

NAMES = f"NAMES {CHARSET} COLLATE {COLLATION}"

TABLE_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": CHARSET, "mysql_collate": COLLATION}


class Unavailable(Exception):
    """The database could not do the work now, and nothing was changed: it may be tried again."""

    public = "The database is not available at the moment. The request was not carried out; please try again."


class NotDurable(driver.OperationalError):  # type: ignore[misc]  # aiomysql has no types
    """The server may lose commits, and DURABILITY does not allow it."""


class OutcomeUnknown(Exception):
    """The connection was lost during the COMMIT: the work may or may not have been done."""

    public = "The connection to the database was lost while it saved. Whether the request took effect is not known."


def register(app: App) -> None:
    """Opens the engine when the worker begins to serve, which is after the fork, and closes it afterwards."""
    database = app.settings.database
    app.connections += database.pool_size

    @app.before_serving
    async def open_engine() -> None:
        app.extensions["engine"] = create_engine(database, pool_size=database.pool_size)

    @app.after_serving
    async def close_engine() -> None:
        await app.extensions["engine"].dispose()


def create_engine(settings: DatabaseSettings, *, pool_size: int | None = None, check: bool = True) -> AsyncEngine:
    """Returns an engine that connects lazily, with a pool of up to `pool_size` connections, or without one (None).

    Without `check`, the pool neither pings a connection before use nor rolls it back afterwards, which saves two round
    trips: for callers that end every transaction and cope with lost connections.
    """
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pool_size is not None:
        pool = {
            "poolclass": AsyncAdaptedQueuePool,
            "pool_size": pool_size,
            "max_overflow": 0,
            "pool_timeout": settings.pool_timeout,
            # A connection that was idle for as long as the server allows is never used, and one that was cut is found.
            "pool_recycle": settings.idle_timeout // 2,
            "pool_pre_ping": check,
            "pool_reset_on_return": "rollback" if check else None,
        }
    engine = create_async_engine(
        URL.create(
            driver.URL_SCHEME,
            username=settings.username,
            password=settings.password,
            host=settings.host,
            port=settings.port,
            database=settings.name,
        ),
        isolation_level="READ COMMITTED",
        connect_args={"async_creator_fn": driver.connect, "charset": CHARSET, "settings": settings},
        **pool,
    )
    run_at_connect(engine.sync_engine, _session(settings))
    if settings.durability == "strict":
        event.listen(engine.sync_engine, "connect", _refuse_unless_durable)
    return engine


def run_at_connect(engine: Engine, statement: str) -> None:
    """Executes the statement on each new connection, after SQLAlchemy's SET NAMES."""

    @event.listens_for(engine, "connect")
    def run(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()


def _refuse_unless_durable(connection: Any, _record: object) -> None:
    """All three are needed: without the binary log InnoDB shows a commit to others before it is durable."""
    cursor = connection.cursor()
    cursor.execute("SELECT @@log_bin, @@sync_binlog, @@innodb_flush_log_at_trx_commit")
    found = tuple(int(value) for value in cursor.fetchone())
    cursor.close()
    if found != (1, 1, 1):
        raise NotDurable(
            0,
            "The database may forget commits in a power cut: log_bin, sync_binlog and innodb_flush_log_at_trx_commit "
            f"are {', '.join(map(str, found))} and must all be 1, unless DURABILITY=relaxed says that this is meant.",
        )


@asynccontextmanager
async def transaction() -> AsyncIterator[AsyncConnection]:
    """Lends a connection of the worker's pool: commits at the end of the block, rolls back on an error.

    Raises Unavailable if nothing was changed and it may be tried again, OutcomeUnknown if the COMMIT was not answered.
    """
    engine: AsyncEngine = current_app.extensions["engine"]
    try:
        async with engine.connect() as connection:
            yield connection
            try:
                await connection.commit()
            except exc.DBAPIError as error:
                raise OutcomeUnknown(_summary(error)) from error
    except exc.TimeoutError as error:
        raise Unavailable(f"all {engine.pool.size()} connections of the pool were in use") from error  # type: ignore[attr-defined]
    except exc.DBAPIError as error:
        if not _may_be_tried_again(error):
            raise
        raise Unavailable(_summary(error)) from error


def error_code(error: exc.DBAPIError) -> int:
    """Returns the server's or the client library's error number, 0 where there is none."""
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _may_be_tried_again(error: exc.DBAPIError) -> bool:
    """Whether a later attempt may succeed: the server is away, busy or stopping, a lock timed out, a table is missing.

    The driver raises OperationalError for the server's faults, and other classes for the client's.
    """
    kinds = (exc.OperationalError, exc.InterfaceError, exc.InternalError)
    return error.connection_invalidated or isinstance(error, kinds) or error_code(error) == ER_NO_SUCH_TABLE


def _summary(error: exc.DBAPIError) -> str:
    """Returns the driver's message; SQLAlchemy's contains the statement and its parameters."""
    return f"{type(error.orig).__name__}: {error.orig}"


def _session(settings: DatabaseSettings) -> str:
    """Returns the statement that sets the session's variables. Those of one server alone are in an executable comment:
    https://mariadb.com/kb/en/comment-syntax/"""
    seconds = settings.statement_timeout
    return (
        f"SET {NAMES}, SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00', wait_timeout = {settings.idle_timeout}, "
        f"innodb_lock_wait_timeout = {settings.lock_timeout}, lock_wait_timeout = {settings.lock_timeout} "
        f"/*!50708 , max_execution_time = {round(seconds * 1000)} */ /*M!100100 , max_statement_time = {seconds} */"
    )
