"""The environment of every `alembic` command: waits for the database, and holds the migration lock.

Nothing here depends on how the command was started, so that a plain `alembic upgrade head` is as safe as the job.
"""

import logging
import sys

from alembic import context
from alembic.autogenerate.rewriter import Rewriter
from alembic.operations import ops
from sqlalchemy import Connection

from migrations import comparison  # noqa: F401  # how Alembic compares columns
from migrations.connecting import connect, database_url, lock, make_engine, session
from migrations.exits import Exit, give_up
from migrations.failures import said_in_a_sentence
from service import metadata
from service.platform import database, logs
from service.platform.settings import MigrationSettings, SettingsError, load_migration_settings


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
    with connect(engine, settings) as connection, said_in_a_sentence():
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
    """`--sql`: prints the statements, and first those by which a session is as the job's; connects to nothing."""
    context.configure(url=database_url(settings), target_metadata=metadata, literal_binds=True)
    context.execute(f"SET {database.NAMES}")
    context.execute(session(settings).replace(":", r"\:"))  # which text() would take for a parameter
    with context.begin_transaction():
        context.run_migrations()


try:
    settings = load_migration_settings()
except SettingsError as error:
    give_up(Exit.CONFIG, str(error))
logs.configure(settings.log_level, json=not sys.stderr.isatty())
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # six lines before each autogenerate
(run_offline if context.is_offline_mode() else run_online)(settings)
