"""Revisions: a copy in which a test writes its own, and one process for many of Alembic's commands."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from service.platform.settings import ROOT

EACH_LINE = """
import sys
from alembic.config import main
for line in sys.stdin:
    main(line.split())
    print(flush=True)
"""

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


@contextmanager
def one_alembic(environment: dict[str, str]) -> Iterator[Callable[..., str]]:
    """Starts a process for the length of the block, and gives what runs an `alembic` command in it.

    A command returns what it has printed. One that fails ends the process, which fails the test.
    """
    command, pipe = [sys.executable, "-c", EACH_LINE], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        given, printed = process.stdin, process.stdout
        assert given
        assert printed

        def run(*arguments: str) -> str:
            print(*arguments, file=given, flush=True)
            lines = []
            while (line := printed.readline()) != "\n":
                assert line, f"alembic {' '.join(arguments)} failed"
                lines.append(line)
            return "".join(lines)

        yield run
