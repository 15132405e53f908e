import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from service.settings import ROOT
from tests.databases import Database

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Returns the README's code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_every_command_of_the_readme_is_run_by_a_test_or_by_ci() -> None:
    """Commands for other systems are in blocks of another kind, marked as not run."""
    runners = [*(ROOT / "tests").rglob("*.py"), ROOT / ".ci/run"]
    run = normal("\n".join(path.read_text() for path in runners if path != Path(__file__)))
    commands = [line for block in blocks("sh") for line in block.splitlines() if line]
    assert len(commands) > 10
    assert not [command for command in commands if normal(command) not in run]


def normal(text: str) -> str:
    """The words only, so that a command is found as a line of shell and as a Python list, with or without its path."""
    return " " + re.sub(r"[\s\",'\[\]()]+", " ", text) + " "


def test_the_sql_of_the_readme_makes_a_database_for_both_users(
    empty_database: Database, plain_environment: dict[str, str]
) -> None:
    if not empty_database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    name = f"t{uuid.uuid4().hex[:8]}"  # a user's name has 32 characters at the most
    (sql,) = blocks("sql")
    statements = [line for line in re.sub(r"\btally(?=\b|_)", name, sql).split(";\n") if line]
    environment = {
        **plain_environment,
        "DB_HOST": empty_database.server.host,
        "DB_PORT": str(empty_database.server.port),
        "DATABASE_NAME": name,
        "DB_USERNAME": name,
        "DB_PASSWORD": "a password",
        "MIGRATION_DB_USERNAME": f"{name}_migration",
        "MIGRATION_DB_PASSWORD": "another password",
    }
    try:
        empty_database.server.execute(*statements)
        for command in ["upgrade", "head"], ["downgrade", "base"], ["upgrade", "head"]:
            subprocess.run([sys.executable, "-m", "alembic", *command], cwd=ROOT, env=environment, check=True)
        with empty_database.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SHOW GRANTS FOR '{name}'@'%'")
            rows, *more = [grant for (grant,) in cursor.fetchall() if "USAGE" not in grant]
        assert not more
        assert rows.startswith(f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{name}`.*")
    finally:
        empty_database.server.execute(
            f"DROP DATABASE IF EXISTS {name}", f"DROP USER IF EXISTS '{name}'@'%', '{name}_migration'@'%'"
        )
