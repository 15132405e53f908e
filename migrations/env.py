"""The environment of every `alembic` command: waits for the database, and holds the migration lock.

Nothing here depends on how the command was started, so that a plain `alembic upgrade head` is as safe as the job.
"""

import logging
import sys
from enum import IntEnum
from typing import NoReturn

from alembic import context
from alembic.autogenerate.rewriter import Rewriter
from alembic.operations import ops
from pymysql.constants import CR, ER
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, exc, text
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from migrations import comparison  # noqa: F401  # how Alembic compares columns
from service import metadata
from service.platform import database, logs, tls
from service.platform.mysql_errors import CR_SSL_CONNECTION_ERROR, ER_ACCESS_DENIED_NO_PASSWORD, NO_ROOM, way_out
from service.platform.settings import MigrationSettings, SettingsError, load_migration_settings

log = logging.getLogger("migrations")

# Waiting helps against these only: a server that is not there yet, is starting, stopping or full.
_NOT_THERE = {
    CR.CR_CONNECTION_ERROR,
    CR.CR_CONN_HOST_ERROR,
    CR.CR_SERVER_GONE_ERROR,
    CR.CR_SERVER_LOST,
    ER.SERVER_SHUTDOWN,
    *NO_ROOM,
}

_NOT_LET_IN = {ER.ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD, ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR}


class Exit(IntEnum):
    """Exit codes of sysexits(3), which Python's `os` has on Unix only."""

    DATAERR = 65
    UNAVAILABLE = 69
    TEMPFAIL = 75
    NOPERM = 77
    CONFIG = 78


def give_up(code: Exit, sentence: str) -> NoReturn:
    """Ends the process with `code`, and prints one sentence that says what is wrong and what to do."""
    print(sentence, file=sys.stderr)
    sys.exit(code)


def make_engine(settings: MigrationSettings) -> Engine:
    """Returns an engine without a pool, with a short time-out for tables that are in use.

    A statement that waits for a table's metadata lock, by default for a year, makes every later one wait behind it.
    """
    seconds = settings.database.lock_timeout
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
            # A statement that changes a table may take hours. Alembic names no engine for its own table.
            "init_command": f"SET SESSION {database.SAME_MEANING}, lock_wait_timeout = {seconds}, "
            "default_storage_engine = InnoDB /*!50708 , max_execution_time = 0 */ "
            "/*M!100100 , max_statement_time = 0 */",
        },
    )
    database.run_at_connect(engine, f"SET {database.NAMES}")
    return engine


def database_url(settings: MigrationSettings) -> URL:
    to = settings.database
    password = database.password_for_driver(to.password)
    return URL.create("mysql+pymysql", to.username, password, to.host, to.port, to.name)


def connect(engine: Engine, settings: MigrationSettings) -> Connection:
    """Returns a connection; waits up to MIGRATION_WAIT_TIMEOUT for the server, with a line of progress each try."""
    attempts = Retrying(
        retry=retry_if_exception(is_not_there),
        stop=stop_after_delay(settings.wait_timeout),
        wait=wait_fixed(1),
        before_sleep=report_waiting,
        reraise=True,
    )
    to = settings.database
    try:
        return attempts(engine.connect)
    except exc.DBAPIError as error:
        if failed := tls.reason(error.orig):
            give_up(
                Exit.NOPERM,
                f"No TLS with the database at {to.host}:{to.port} ({failed}){way_out(CR_SSL_CONNECTION_ERROR)}.",
            )
        if is_not_there(error):
            give_up(
                Exit.UNAVAILABLE,
                f"No database at {to.host}:{to.port} within {settings.wait_timeout:g} s "
                f"({reason(error)}): start it, correct DB_HOST and DB_PORT, or raise MIGRATION_WAIT_TIMEOUT.",
            )
        way = way_out(database.error_code(error))
        if not way or database.error_code(error) in _NOT_LET_IN:
            way = (
                ": correct MIGRATION_DB_USERNAME, MIGRATION_DB_PASSWORD or DATABASE_NAME, or make the user and the "
                "database (deploy/database/users.sql)"
            )
        give_up(Exit.NOPERM, f"The database at {to.host}:{to.port} refuses the migration job ({reason(error)}){way}.")


def is_not_there(error: BaseException) -> bool:
    return isinstance(error, exc.DBAPIError) and database.error_code(error) in _NOT_THERE and not tls.reason(error.orig)


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
    taken = connection.execute(
        text("SELECT GET_LOCK(:name, :timeout)"), {"name": name, "timeout": settings.lock_timeout}
    ).scalar()
    connection.commit()
    if taken != 1:
        give_up(
            Exit.TEMPFAIL,
            f"Another migration job has held the lock {name!r} for {settings.lock_timeout} s: wait for it to end, "
            "or raise MIGRATION_LOCK_TIMEOUT.",
        )


def refuse_newer_schema(connection: Connection) -> None:
    """Ends the command if the schema's revision is unknown to this code."""
    known = {revision.revision for revision in context.script.walk_revisions()}
    newer = [revision for revision in context.get_context().get_current_heads() if revision not in known]
    connection.commit()
    if newer:
        give_up(
            Exit.DATAERR,
            f"The database's schema is at revision {', '.join(newer)}, which this code does not know: "
            "it was migrated by newer code, so use that code's migration job.",
        )


rerunnable = Rewriter()
"""Has what --autogenerate writes skip tables that are made or dropped already: the server commits each statement that
changes the schema, and a revision that was stopped between two of them is run again. Columns and indexes are not
skipped, for which MySQL has no such words."""


@rerunnable.rewrites(ops.CreateTableOp)
def _create_unless_it_exists(_: object, __: object, operation: ops.CreateTableOp) -> ops.CreateTableOp:
    operation.if_not_exists = True
    return operation


@rerunnable.rewrites(ops.DropTableOp)
def _drop_if_it_exists(_: object, __: object, operation: ops.DropTableOp) -> ops.DropTableOp:
    operation.if_exists = True
    return operation


def run_online(settings: MigrationSettings) -> None:
    engine = make_engine(settings)
    with connect(engine, settings) as connection:
        lock(connection, settings)
        context.configure(
            connection=connection,
            target_metadata=metadata,
            compare_server_default=True,
            transaction_per_migration=True,
            process_revision_directives=rerunnable,
        )
        refuse_newer_schema(connection)
        with context.begin_transaction():
            context.run_migrations()


def run_offline(settings: MigrationSettings) -> None:
    """`--sql`: prints the statements and connects to nothing."""
    context.configure(url=database_url(settings), target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


try:
    settings = load_migration_settings()
except SettingsError as error:
    give_up(Exit.CONFIG, str(error))
logs.configure(settings.log_level, json=not sys.stderr.isatty())
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # six lines before each autogenerate
(run_offline if context.is_offline_mode() else run_online)(settings)
