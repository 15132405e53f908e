"""A copy of the service and its migrations, in which a test writes revisions of its own."""

import re
import shutil
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from service.platform.settings import ROOT

HEAD = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_current_head() or ""


def copy_migrations(into: Path) -> Path:
    """Copies the service, its migrations and alembic.ini into the folder; returns the folder."""
    for name in "service", "migrations":
        shutil.copytree(ROOT / name, into / name)
    shutil.copy(ROOT / "alembic.ini", into)
    return into


def write_revision(copy: Path, number: str, *statements: str, downgrade: str = "pass", after: str = HEAD) -> Path:
    """Adds a revision whose upgrade has these lines of Python; returns its file."""
    path = copy / f"migrations/versions/{number}_own.py"
    body = "\n    ".join(statements)
    path.write_text(
        f'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "{number}"\ndown_revision = "{after}"\n\n\n'
        f"def upgrade():\n    {body}\n\n\ndef downgrade():\n    {downgrade}\n"
    )
    return path


def statements(printed: str) -> list[str]:
    """Returns the statements of what `--sql` printed."""
    without_remarks = re.sub(r"^--.*$", "", printed, flags=re.MULTILINE)
    return [one.strip() for one in without_remarks.split(";\n") if one.strip()]
