"""The connection of a command: waits for the database, and holds this database's migration lock while it is open."""

import logging

from pymysql.constants import CR, ER
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, exc, text
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from migrations.exits import Exit, give_up
from migrations.lock_waits import LOCK_WAIT, retry_where_locked
from service.platform import database, tls
from service.platform.mysql_errors import CR_SSL_CONNECTION_ERROR, ER_ACCESS_DENIED_NO_PASSWORD, NO_ROOM, way_out
from service.platform.settings import MigrationSettings

log = logging.getLogger("migrations")

# Waiting helps against these only: a server that is not there yet, is starting, stopping or full.
NOT_THERE = {
    CR.CR_CONNECTION_ERROR,
    CR.CR_CONN_HOST_ERROR,
    CR.CR_SERVER_GONE_ERROR,
    CR.CR_SERVER_LOST,
    ER.SERVER_SHUTDOWN,
    *NO_ROOM,
}

_NOT_LET_IN = {ER.ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD, ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR}


def make_engine(settings: MigrationSettings) -> Engine:
    """Returns an engine without a pool, whose statements wait only shortly for what others use, and try again."""
    timeout = max(1, round(settings.database.connect_timeout))
    engine = create_engine(
        database_url(settings),
        poolclass=NullPool,
        connect_args={
            "connect_timeout": timeout,
            "charset": database.CHARSET,
            "ssl": settings.database.tls,
            # PyMySQL would take TLS where it is offered, and check nothing.
            "ssl_disabled": settings.database.tls is None,
            "init_command": session(settings),
        },
    )
    database.run_at_connect(engine, f"SET {database.NAMES}")
    retry_where_locked(engine, settings.attempts)
    return engine


def session(settings: MigrationSettings) -> str:
    """Returns the statement that sets the session's variables, but for its character set."""
    # A statement that changes a table may take hours. Alembic names no engine for its own table.
    return (
        f"SET SESSION {database.SAME_MEANING}, lock_wait_timeout = {LOCK_WAIT}, "
        f"innodb_lock_wait_timeout = {settings.database.lock_timeout}, default_storage_engine = InnoDB "
        "/*!50708 , max_execution_time = 0 */ /*M!100100 , max_statement_time = 0 */"
    )


def database_url(settings: MigrationSettings) -> URL:
    to = settings.database
    password = database.password_for_driver(to.password)
    return URL.create("mysql+pymysql", to.username, password, to.host, to.port, to.name)


class NoTLS(Exception):
    """TLS failed; the text says why. Waiting does not help."""


def connect(engine: Engine, settings: MigrationSettings) -> Connection:
    """Returns a connection; waits up to MIGRATION_WAIT_TIMEOUT for the server, with a line of progress each try."""
    attempts = Retrying(
        retry=retry_if_exception(is_not_there),
        stop=stop_after_delay(settings.wait_timeout),
        wait=wait_fixed(1),
        before_sleep=report_waiting,
        reraise=True,
    )
    at = f"{settings.database.host}:{settings.database.port}"
    try:
        return attempts(open_connection, engine)
    except NoTLS as error:
        give_up(Exit.NOPERM, f"No TLS with the database at {at} ({error}){way_out(CR_SSL_CONNECTION_ERROR)}.")
    except exc.DBAPIError as error:
        if is_not_there(error):
            give_up(
                Exit.UNAVAILABLE,
                f"No database at {at} within {settings.wait_timeout:g} s ({reason(error)}): start it, correct DB_HOST "
                "and DB_PORT, or raise MIGRATION_WAIT_TIMEOUT.",
            )
        way = way_out(database.error_code(error))
        if not way or database.error_code(error) in _NOT_LET_IN:
            way = (
                ": correct MIGRATION_DB_USERNAME, MIGRATION_DB_PASSWORD or DATABASE_NAME, or make the user and the "
                "database (deploy/database/users.sql)"
            )
        give_up(Exit.NOPERM, f"The database at {at} refuses the migration job ({reason(error)}){way}.")


def open_connection(engine: Engine) -> Connection:
    """Returns a connection. Raises NoTLS, or SQLAlchemy's DBAPIError."""
    try:
        return engine.connect()
    except exc.DBAPIError as error:
        # PyMySQL says of it no more than that the server cannot be reached.
        if failed := tls.reason(error.orig):
            raise NoTLS(failed) from error
        raise


def is_not_there(error: BaseException) -> bool:
    return isinstance(error, exc.DBAPIError) and database.error_code(error) in NOT_THERE


def reason(error: exc.DBAPIError) -> str:
    return f"error {database.error_code(error)}: {error.orig.args[-1] if error.orig else error}"


def report_waiting(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    waited = state.seconds_since_start or 0
    detail = reason(error) if isinstance(error, exc.DBAPIError) else ""
    log.info("waiting for the database, %.0f s so far (%s)", waited, detail)


def lock(connection: Connection, settings: MigrationSettings) -> None:
    """Takes this database's migration lock for as long as the connection lives; gives up if another job holds it."""
    name = f"migration:{settings.database.name}"
    taken, holder = connection.execute(
        text("SELECT GET_LOCK(:name, :timeout), IS_USED_LOCK(:name)"), {"name": name, "timeout": settings.lock_timeout}
    ).one()
    connection.commit()
    if taken != 1:
        give_up(
            Exit.TEMPFAIL,
            f"Another migration job (the server's process {holder}) has held the lock {name!r} for "
            f"{settings.lock_timeout} s: wait for it to end, or raise MIGRATION_LOCK_TIMEOUT.",
        )
