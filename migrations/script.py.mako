"""${message}

Revision ${up_revision}, after ${down_revision | comma,n}, made ${create_date}.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}


# How to write a revision; take this out when it is written.
#
# - One statement that changes the schema, and one in downgrade(). The server commits each by itself, so a run that is
#   stopped between two leaves what no revision describes. tests/migrations/test_one_statement.py checks it.
# - It says by which algorithm, so that requests go on; a server that cannot do it so refuses. Columns are added
#   and dropped, and defaults changed, by ALGORITHM=INSTANT; all else is done by ALGORITHM=INPLACE, LOCK=NONE. Alembic's
#   own functions get it (migrations/algorithms.py); in SQL of op.execute it is written:
#   ALTER TABLE note ADD COLUMN colour VARCHAR(20) NULL, ALGORITHM=INSTANT
#   A foreign key of a table that is there needs op.execute("SET SESSION foreign_key_checks = 0") before it, 1 after it:
#   the server compares rows that are there only while it copies the table. Look by a query for those without a parent.
# - Expand: the version before this one serves meanwhile, and may be put back. So a new column may be NULL or has a
#   default, and another type or name is a new column, which this version writes beside the old one.
# - Contract: what no version uses any longer is dropped by a revision of a later release.
# - Rows are filled in small transactions by a command of the application, not here.
# - A run may be stopped after the statement and before the revision is noted. if_not_exists and if_exists have the next
#   run skip a table that is there or gone; for the rest it says what to do.


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
