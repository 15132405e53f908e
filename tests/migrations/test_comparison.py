"""`alembic check` has nothing to say of a schema that is as its tables say, whatever they are made of; else it does."""

import re
import shutil
from pathlib import Path

import pytest

from harness.databases import Database
from tests.migrations.revisions import copy_migrations
from tests.migrations.test_migrations import Environment, alembic

OWN = Path(__file__).with_name("own_tables.py")

CHANGES = {
    "name": 'sa.String(100), nullable=False, unique=True, comment="as it was printed"',
    "json": "sa.Text",
    "json_needed": "mysql.JSON",
    "json_default": "sa.JSON, server_default=sa.text(\"('[]')\")",
    "bool": "sa.Integer",
    "bool_false": "sa.Boolean, nullable=False, server_default=sa.true()",
    "bool_word": 'sa.Boolean, nullable=False, server_default=sa.text("false")',
    "made": "sa.DateTime, nullable=False",
    "made_text": 'sa.DateTime, server_default=sa.text("CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP")',
    "made_fine": 'mysql.DATETIME(fsp=3), server_default=sa.text("CURRENT_TIMESTAMP(3)")',
    "day": 'sa.Date, server_default="2026-01-02"',
    "enum": 'sa.Enum("small", "large", "huge", name="size")',
    "enum_default": 'sa.Enum("small", "large", name="size"), nullable=False, server_default="large"',
    "enum_python": "sa.Enum(Colour), nullable=False, server_default=Colour.blue.name",
    "decimal_plain": "sa.Numeric(8, 3)",
    "decimal_zeros": 'sa.Numeric(10, 2), server_default="0.01"',
    "decimal_negative": "sa.DECIMAL(5, 1)",
    "float_text": 'sa.Float, server_default=sa.text("0.25")',
    "integer": 'sa.BigInteger, server_default="0"',
    "integer_text": 'sa.Integer, server_default=sa.text("1")',
    "unsigned": "mysql.INTEGER",
    "string": "sa.String(50), nullable=False",
    "string_quoted": 'sa.String(50), server_default="it is so"',
    "string_upper": 'sa.String(50), server_default="NEVER"',
    "string_null": "sa.String(60)",
    "ascii": 'mysql.VARCHAR(63, charset="ascii", collation="ascii_general_ci"), server_default="x"',
    "text": "mysql.LONGTEXT",
    "uuid": "sa.String(40)",
    "unique": "sa.String(50)",
    "indexed": "sa.String(50)",
}
"""What a column is changed to; each must be told."""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of the service and its migrations, with the tables of OWN beside its own."""
    copy_migrations(tmp_path)
    shutil.copy(OWN, tmp_path / "service/platform/own_tables.py")
    with (tmp_path / "service/__init__.py").open("a") as module:
        module.write("from service.platform import own_tables\n")
    return tmp_path


def test_what_people_make_tables_of_leaves_nothing_to_say_and_each_change_is_told(
    database: Database, environment: Environment, own: Path
) -> None:
    assert alembic(environment, "stamp", "head", cwd=own).returncode == 0
    for command in ["revision", "--autogenerate", "-m", "own"], ["upgrade", "head"], ["check"]:
        ended = alembic(environment, *command, cwd=own)
        assert ended.returncode == 0, (ended.stdout + ended.stderr)[-9000:]
    tables = own / "service/platform/own_tables.py"
    text = tables.read_text()
    for name, new in CHANGES.items():
        line = re.compile(rf'sa\.Column\("{name}", .*\),\n')
        text, changed = line.subn(f'sa.Column("{name}", {new}),\n', text)
        assert changed == 1, name
    tables.write_text(text)
    ended = alembic(environment, "check", cwd=own)
    assert ended.returncode != 0
    told = ended.stdout + ended.stderr
    assert [name for name in CHANGES if re.search(rf"\b{name}'", told) is None] == [], told


def test_a_user_who_may_make_no_temporary_table_is_told_of_it(database: Database, environment: Environment) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    pattern, user = database.name.replace("_", "\\_"), environment["MIGRATION_DB_USERNAME"]
    database.server.execute(f"REVOKE CREATE TEMPORARY TABLES ON `{pattern}`.* FROM '{user}'@'%'")
    ended = alembic(environment, "check")
    assert ended.returncode == 0, ended.stderr
    assert "Does the migration user have CREATE TEMPORARY TABLES?" in ended.stderr
