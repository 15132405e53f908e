"""How a failed command ends: with the revision and its line, what the schema is now, and what to do."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from alembic import context
from alembic.util import CommandError
from pymysql.constants import ER
from sqlalchemy import exc

from migrations.connecting import NOT_THERE, reason
from migrations.exits import Exit, give_up
from service.platform.database import error_code
from service.platform.mysql_errors import (
    CONNECTION_ENDED,
    ER_ALTER_NOT_SUPPORTED,
    ER_ALTER_NOT_SUPPORTED_REASON,
    ER_CHECK_CONSTRAINT_DUP_NAME,
    ER_FK_DUP_NAME,
    ER_NO_SUCH_TABLE,
    TRANSIENT,
    way_out,
)

log = logging.getLogger("migrations")

_THERE_ALREADY = {
    ER.TABLE_EXISTS_ERROR,
    ER.BAD_TABLE_ERROR,
    ER.DUP_FIELDNAME,
    ER.DUP_KEYNAME,
    ER.CANT_DROP_FIELD_OR_KEY,
    ER.MULTIPLE_PRI_KEY,
    ER_FK_DUP_NAME,
    ER_CHECK_CONSTRAINT_DUP_NAME,
}
"""What a statement is refused with that was executed before."""

_NOT_ALLOWED = {
    ER.DBACCESS_DENIED_ERROR,
    ER.TABLEACCESS_DENIED_ERROR,
    ER.COLUMNACCESS_DENIED_ERROR,
    ER.SPECIFIC_ACCESS_DENIED_ERROR,
    ER.OPTION_PREVENTS_STATEMENT,
}


class Step(NamedTuple):
    """A revision on its way up or down: which, where in its file it failed, and the revisions before and after."""

    where: str
    before: str
    after: str


@contextmanager
def said_in_a_sentence() -> Iterator[None]:
    """Ends the process with one sentence and an exit code if the block fails."""
    try:
        yield
    except CommandError:
        heads = context.script.get_heads()
        if len(heads) < 2:
            raise  # Alembic prints it as a sentence
        give_up(
            Exit.SOFTWARE,
            f"There are {len(heads)} heads ({', '.join(sorted(heads))}), and so no one revision to go to; nothing was "
            "changed: have one follow the other by its down_revision, or join them by `alembic merge heads`.",
        )
    except exc.DBAPIError as error:
        give_up(*_of_database(error))
    except Exception as error:
        step = _step(error)
        if step is None:
            raise
        log.exception("a revision failed")
        give_up(Exit.SOFTWARE, f"{_failed(step, f'{type(error).__name__}: {error}')}: {_mend(step)}.")


def _of_database(error: exc.DBAPIError) -> tuple[Exit, str]:
    """Returns how to end after an error of the server's or of the connection to it."""
    code, step = error_code(error), _step(error)
    failed = _failed(step, reason(error))
    if code in NOT_THERE | CONNECTION_ENDED:
        return Exit.UNAVAILABLE, (
            f"{failed}: the connection to the database was lost, and whether its last statement was done is not known; "
            "run the migration again when the database is there."
        )
    if code in _THERE_ALREADY and step is not None:
        return Exit.SOFTWARE, (
            f"{failed}: what it changes is so already, since a run was stopped between the change and the note of it, "
            "or since somebody made it by hand; if that is all that the revision does, note it by `./run migrate "
            f"stamp {step.after}`, and see that `./run migrate check` has nothing to say."
        )
    if code in {ER_ALTER_NOT_SUPPORTED, ER_ALTER_NOT_SUPPORTED_REASON}:
        return Exit.SOFTWARE, (
            f"{failed}: the server cannot do it while others use the table, and has changed nothing; expand by a new "
            "column or table instead, as migrations/script.py.mako says."
        )
    if code in TRANSIENT - {ER_NO_SUCH_TABLE}:
        return Exit.TEMPFAIL, (
            f"{failed}{way_out(code)}; it is due to the server's state, not to the revision: run the migration again."
        )
    if code in _NOT_ALLOWED:
        return Exit.NOPERM, f"{failed}{way_out(code)}."
    return Exit.SOFTWARE, f"{failed}: {_mend(step)}."


def _failed(step: Step | None, reason: str) -> str:
    return f"{step.where if step else 'The command'} failed ({reason})"


def _mend(step: Step | None) -> str:
    stays = f"the schema stays at {step.before}; " if step else ""
    return f"{stays}mend what it says, and run it again"


def _step(error: BaseException) -> Step | None:
    """Returns the revision in which the error came about, None if in none."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        of = frame.f_globals
        if {"revision", "down_revision", "upgrade"} <= of.keys():
            where = f"Revision {of['revision']} ({Path(frame.f_code.co_filename).name}, line {line})"
            down = str(of["down_revision"] or "base")
            if frame.f_code.co_name == "downgrade":
                return Step(where, before=of["revision"], after=down)
            return Step(where, before=down, after=of["revision"])
    return None
