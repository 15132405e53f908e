"""Each revision changes the schema by one statement, which says by which algorithm."""

import re
from pathlib import Path

import pytest

from harness.databases import Database
from tests.migrations.revisions import HEAD, copy_migrations, statements, write_revision
from tests.migrations.test_migrations import SOFTWARE, Environment, alembic, sentence

SERVER = {"DB_HOST": "no-such-host.invalid", "DB_USERNAME": "y", "DB_PASSWORD": "z"}
CHANGES_SCHEMA = re.compile(r"(?:CREATE|ALTER|DROP|RENAME|TRUNCATE)\b", re.IGNORECASE)
WHOLE_TABLE = re.compile(r"(?:CREATE|DROP) TABLE\b|DROP VIEW\b|CREATE (?:OR REPLACE )?VIEW\b", re.IGNORECASE)
ONLINE = re.compile(r"ALGORITHM ?=? ?(?:INSTANT|INPLACE)\b", re.IGNORECASE)


def findings(printed: str) -> list[str]:
    """Returns what is wrong with the statements of each revision in what `--sql` printed."""
    found = []
    for revision in printed.split("-- Running ")[1:]:
        name = revision.partition("\n")[0]
        changes = [one for one in statements(revision.partition("\n")[2]) if CHANGES_SCHEMA.match(one)]
        if len(changes) > 1:
            found.append(f"{name}: {len(changes)} statements that change the schema")
        found += [f"{name}: no algorithm" for one in changes if not (WHOLE_TABLE.match(one) or ONLINE.search(one))]
    return found


@pytest.mark.parametrize("command", [("upgrade", "head"), ("downgrade", "head:base")])
def test_a_revision_has_one_statement_that_says_by_which_algorithm(
    plain_environment: Environment, command: tuple[str, str]
) -> None:
    ended = alembic({**plain_environment, **SERVER}, *command, "--sql")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("-- Running ") >= 1
    assert findings(ended.stdout) == []


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("CREATE TABLE a (id INT);\nCREATE INDEX i ON a (b) ALGORITHM=INPLACE LOCK=NONE", "2 statements"),
        ("ALTER TABLE a\n  ADD COLUMN b INT", "no algorithm"),
        ("ALTER TABLE a ADD COLUMN b INT, ALGORITHM=COPY", "no algorithm"),
        ("DROP INDEX i ON a", "no algorithm"),
    ],
)
def test_two_statements_or_none_of_the_algorithms_are_found(sql: str, finding: str) -> None:
    (found,) = findings(f"-- Running upgrade 0001 -> 0002\n\n{sql};\n\nUPDATE alembic_version SET version_num='2';\n")
    assert found.startswith(f"upgrade 0001 -> 0002: {finding}")


CHANGES = [
    "op.create_table('own', sa.Column('id', sa.Integer, primary_key=True), sa.Column('a', sa.Integer))",
    "op.add_column('own', sa.Column('b', sa.String(20), nullable=False, server_default='100%'))",
    "op.alter_column('own', 'a', server_default='1', existing_type=sa.Integer)",
    "op.alter_column('own', 'a', nullable=False, existing_type=sa.Integer, existing_server_default='1')",
    "op.create_index('ix_own_a', 'own', ['a'])",
    "op.drop_index('ix_own_a', 'own')",
    "op.create_unique_constraint('uq_own_b', 'own', ['b'])",
    "op.drop_constraint('uq_own_b', 'own', type_='unique')",
    "op.create_table_comment('own', 'what it is for')",
    "op.drop_column('own', 'b')",
    "op.execute('SET SESSION foreign_key_checks = 0')",
    "op.create_foreign_key('fk_own_a', 'own', 'own', ['a'], ['id'])",
    "op.execute('SET SESSION foreign_key_checks = 1')",
    "op.drop_constraint('fk_own_a', 'own', type_='foreignkey')",
]


def test_statements_of_op_get_an_algorithm_that_the_server_takes(
    database: Database, environment: Environment, tmp_path: Path
) -> None:
    copy = copy_migrations(tmp_path)
    write_revision(copy, "0100", *CHANGES)
    ended = alembic(environment, "upgrade", "head", cwd=copy)
    assert ended.returncode == 0, ended.stderr
    printed = statements(alembic(environment, "upgrade", f"{HEAD}:head", "--sql", cwd=copy).stdout)
    assert [bool(ONLINE.search(one)) for one in printed if "own" in one] == [False] + [True] * 11


def test_a_change_that_would_block_writes_is_refused(
    database: Database, environment: Environment, tmp_path: Path
) -> None:
    copy = copy_migrations(tmp_path)
    database.execute("CREATE TABLE own (id INT PRIMARY KEY, a INT)")
    write_revision(copy, "0100", "op.alter_column('own', 'a', type_=sa.BigInteger, existing_type=sa.Integer)")
    ended = alembic(environment, "upgrade", "head", cwd=copy)
    assert ended.returncode == SOFTWARE
    assert "the server cannot do it while others use the table, and has changed nothing" in sentence(ended)
    assert alembic(environment, "current", cwd=copy).stdout.split()[0] == HEAD
