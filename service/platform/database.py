"""The worker's own engine and pool, and transactions that end in one of three ways: done, not done, or not known.

Times, sizes and the like come from the settings. Every session is READ COMMITTED, in UTC, and gives up waiting before
its client does; a connection that died is never handed out as a live one, nor one with a statement half answered.
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
    """The database could not do the work now, and has not done it: it may be tried again."""

    public = "The database is not available at the moment. The request was not carried out; please try again."


class NotDurable(driver.OperationalError):  # type: ignore[misc]  # aiomysql has no types
    """The server may forget what it has said to be committed, and DURABILITY does not say that this is meant."""


class OutcomeUnknown(Exception):
    """The connection was lost while the database was committing: the work may or may not have been done."""

    public = "The connection to the database was lost while it saved. Whether the request took effect is not known."


def register(app: App) -> None:
    """Opens the worker's engine when it begins to serve, which is after the fork, and closes it when it has ended."""
    database = app.settings.database
    app.connections += database.pool_size

    @app.before_serving
    async def open_engine() -> None:
        app.extensions["engine"] = create_engine(database, pool_size=database.pool_size)

    @app.after_serving
    async def close_engine() -> None:
        await app.extensions["engine"].dispose()


def create_engine(settings: DatabaseSettings, *, pool_size: int | None = None, check: bool = True) -> AsyncEngine:
    """Returns an engine, with a pool of `pool_size` connections at the most or, if None, with none. Connects later.

    Without `check`, a connection is neither tried before it is handed out nor rolled back when it is given back: each
    costs a round trip, which who ends every transaction and bears a lost connection can save.
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
    """Runs the statement on each new connection, after the SET NAMES of SQLAlchemy."""

    @event.listens_for(engine, "connect")
    def run(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()


def _refuse_unless_durable(connection: Any, _record: object) -> None:
    """Without the binary log InnoDB shows a commit to others before it is durable; hence all three."""
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
    """A connection of this worker's pool in a transaction, committed at the end of the block, rolled back on an error.

    Raises Unavailable if nothing was done and it may be tried again, OutcomeUnknown if the commit was not answered.
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
    """Whether waiting may help: the server is away, busy or stopping, a lock was not had, the schema is yet to come.

    The driver raises OperationalError for what lies with the server, and other classes for what lies with us.
    """
    kinds = (exc.OperationalError, exc.InterfaceError, exc.InternalError)
    return error.connection_invalidated or isinstance(error, kinds) or error_code(error) == ER_NO_SUCH_TABLE


def _summary(error: exc.DBAPIError) -> str:
    """The driver's own words; SQLAlchemy's would have the statement and its parameters."""
    return f"{type(error.orig).__name__}: {error.orig}"


def _session(settings: DatabaseSettings) -> str:
    """The session's settings in one statement. What only one of the two servers knows is in a comment that it reads:
    https://mariadb.com/kb/en/comment-syntax/"""
    seconds = settings.statement_timeout
    return (
        f"SET {NAMES}, SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00', wait_timeout = {settings.idle_timeout}, "
        f"innodb_lock_wait_timeout = {settings.lock_timeout}, lock_wait_timeout = {settings.lock_timeout} "
        f"/*!50708 , max_execution_time = {round(seconds * 1000)} */ /*M!100100 , max_statement_time = {seconds} */"
    )
