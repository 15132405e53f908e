"""The worker's own engine and pool, and transactions with three outcomes: committed, not committed, unknown.

Limits come from the settings. Every session is READ COMMITTED, in UTC, and its time-outs are shorter than its client's.
The pool never hands out a dead connection, nor one with an unread result.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any

from quart import current_app
from sqlalchemy import URL, AsyncAdaptedQueuePool, Engine, MetaData, NullPool, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service.platform import driver
from service.platform.app import App
from service.platform.metrics import gauge, histogram
from service.platform.mysql_errors import CONNECTION_ENDED, CR_ERROR_FIRST, CR_ERROR_LAST, TRANSIENT, is_read_only
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

SAME_MEANING = (
    f"sql_mode = '{SQL_MODE}', time_zone = '+00:00', completion_type = 0, sql_safe_updates = 0, sql_big_selects = 1, "
    "sql_select_limit = 18446744073709551615, sql_auto_is_null = 0, foreign_key_checks = 1, unique_checks = 1"
    "/*!50720 , transaction_read_only = 0 */ /*M!100100 , tx_read_only = 0 */"
)
"""Sets the session's variables by which a statement means something else or is refused, whatever the server's defaults
are. Those of one server alone are in an executable comment: https://mariadb.com/kb/en/comment-syntax/"""

NAMES = f"NAMES {CHARSET} COLLATE {COLLATION}"

TABLE_OPTIONS: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": CHARSET, "mysql_collate": COLLATION}


_IN_USE = gauge("db_pool_connections_in_use", "Connections of the pools that requests have.")
_SIZE = gauge("db_pool_size", "Connections that the pools may have.")
_WAITING = gauge("db_pool_requests_waiting", "Requests that wait for a connection of the pools.")
_WAIT = histogram("db_pool_wait_seconds", "Time until a request had a connection of the pools, or gave up.")


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
        engine = app.extensions["engine"] = create_engine(database, pool_size=database.pool_size)
        _SIZE.set(database.pool_size)
        _IN_USE.set_function(engine.pool.checkedout)  # type: ignore[attr-defined]

    @app.after_serving
    async def close_engine() -> None:
        await app.extensions["engine"].dispose()


def create_engine(settings: DatabaseSettings, *, pool_size: int | None = None, check: bool = True) -> AsyncEngine:
    """Returns an engine that connects lazily, with a pool of up to `pool_size` connections, or without one (None).

    Without `check`, the pool neither pings a connection before use nor rolls it back afterwards, which saves two round
    trips: for callers that end every transaction and cope with lost connections.
    """
    engine = create_async_engine(
        URL.create(
            driver.URL_SCHEME,
            username=settings.username,
            password=password_for_driver(settings.password),
            host=settings.host,
            port=settings.port,
            database=settings.name,
        ),
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # from the log: what a client sent may be secret
        connect_args={
            "async_creator_fn": driver.connect,
            "charset": CHARSET,
            "settings": settings,
            "ssl": settings.tls,
            # Before SQLAlchemy asks for the sql_mode, which it takes for the session's from then on.
            "init_command": _session(settings),
        },
        **_pool(settings, pool_size, check=check),
    )
    run_at_connect(engine.sync_engine, f"SET {NAMES}")
    event.listen(engine.sync_engine, "handle_error", _discard_useless_connection)
    if settings.durability == "strict":
        event.listen(engine.sync_engine, "connect", _refuse_unless_durable)
    return engine


def _pool(settings: DatabaseSettings, size: int | None, *, check: bool) -> dict[str, Any]:
    """Returns the arguments of create_async_engine that are about the pool."""
    if size is None:
        return {"poolclass": NullPool}
    return {
        "poolclass": AsyncAdaptedQueuePool,
        "pool_size": size,
        "max_overflow": 0,
        "pool_timeout": settings.pool_timeout,
        # A connection that was idle for as long as the server allows is never used, and one that was cut is found.
        "pool_recycle": settings.idle_timeout // 2,
        "pool_pre_ping": check,
        "pool_reset_on_return": "rollback" if check else None,
    }


@asynccontextmanager
async def temporary_engine(settings: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    """Lends an engine without a pool, for commands and jobs, and disposes of it at the end of the block."""
    engine = create_engine(settings)
    try:
        yield engine
    finally:
        await engine.dispose()


def run_at_connect(engine: Engine, statement: str) -> None:
    """Executes the statement on each new connection, after SQLAlchemy's SET NAMES."""

    @event.listens_for(engine, "connect")
    def run(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()


def password_for_driver(password: str) -> str:
    """Returns the password as both drivers must be given it: they send it in Latin-1, and the server wants UTF-8."""
    return password.encode().decode("latin-1")


def _discard_useless_connection(context: Any) -> None:
    """Discards a connection that the server has ended, or whose server has become read-only."""
    error = context.original_exception
    if is_read_only(error) or (error.args and error.args[0] in CONNECTION_ENDED):
        context.is_disconnect = True


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

    Raises Unavailable if nothing was changed and it may be tried again, OutcomeUnknown if the COMMIT failed.
    """
    engine: AsyncEngine = current_app.extensions["engine"]
    async with AsyncExitStack() as stack:
        # Not all who get a connection wait for one: a far server takes long to log in to, and to ping, too.
        is_full = engine.pool.checkedout() >= engine.pool.size()  # type: ignore[attr-defined]
        try:
            with _WAITING.track_inprogress() if is_full else nullcontext(), _WAIT.time():
                connection = await stack.enter_async_context(engine.connect())
        except exc.TimeoutError as error:
            raise Unavailable(f"all {engine.pool.size()} connections of the pool were in use") from error  # type: ignore[attr-defined]
        except exc.DBAPIError as error:
            raise Unavailable(_summary(error)) from error
        try:
            yield connection
        except exc.DBAPIError as error:
            if not _is_transient(error):
                raise
            raise Unavailable(_summary(error)) from error
        except exc.PendingRollbackError as error:  # the block went on after an error that ended its connection
            raise Unavailable("the connection was lost") from error
        except BaseException:
            try:
                await connection.rollback()
            except exc.DBAPIError:  # it was lost, and the server has rolled back; the block's own error matters
                await connection.invalidate()
            raise
        try:
            await connection.commit()
        except exc.DBAPIError as error:
            raise OutcomeUnknown(_summary(error)) from error


def error_code(error: exc.DBAPIError) -> int:
    """Returns the server's or the client library's error number, 0 where there is none."""
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _is_transient(error: exc.DBAPIError) -> bool:
    """Whether a later attempt may succeed. By the number: PyMySQL's classes do not tell, and a constraint of a table is
    an OperationalError like a server that stops (PyMySQL/PyMySQL#607)."""
    code = error_code(error)
    return error.connection_invalidated or code in TRANSIENT or CR_ERROR_FIRST <= code <= CR_ERROR_LAST


def _summary(error: exc.DBAPIError) -> str:
    """Returns the driver's message; SQLAlchemy's contains the statement and its parameters."""
    return f"{type(error.orig).__name__}: {error.orig}"


def _session(settings: DatabaseSettings) -> str:
    """Returns the statement that sets the session's variables, but for its character set."""
    seconds = settings.statement_timeout
    return (
        f"SET SESSION {SAME_MEANING}, wait_timeout = {settings.idle_timeout}, "
        f"innodb_lock_wait_timeout = {settings.lock_timeout}, lock_wait_timeout = {settings.lock_timeout} "
        f"/*!50708 , max_execution_time = {round(seconds * 1000)} */ /*M!100100 , max_statement_time = {seconds} */"
    )
