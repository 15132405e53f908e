"""A migration that is held up, fails or is cut off ends with one sentence, and the schema is as it was or goes on."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest

from harness.databases import Database, new_database
from harness.processes import wait_until
from harness.proxy import Cut, Moment, proxy
from service.platform.settings import ROOT
from tests.migrations.revisions import HEAD, copy_migrations, statements, write_revision
from tests.migrations.test_migrations import SOFTWARE, Environment, alembic, schema, sentence

ADD_COLUMN = "op.add_column('own', sa.Column('a', sa.Integer))"


@pytest.fixture
def copy(database: Database, tmp_path: Path) -> Path:
    """A copy of the migrations whose last revision adds a column to the table `own`, which is there."""
    database.execute("CREATE TABLE own (id INT PRIMARY KEY)")
    copy_migrations(tmp_path)
    write_revision(tmp_path, "0100", ADD_COLUMN)
    return tmp_path


@contextmanager
def long_transaction(database: Database) -> Iterator["pymysql.Connection[Any]"]:
    """A transaction of the service's user that has read from `own`, and stays open for the block."""
    user = database.environment["DB_USERNAME"], database.environment["DB_PASSWORD"]
    server = database.server
    with pymysql.connect(host=server.host, port=server.port, user=user[0], password=user[1]) as connection:
        connection.cursor().execute(f"SELECT * FROM `{database.name}`.own")
        yield connection


@contextmanager
def running(environment: Environment, copy: Path) -> Iterator["tuple[subprocess.Popen[bytes], Path]"]:
    """Starts the migration; gives its process, and the file of what it writes."""
    log = copy / "alembic.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        job = subprocess.Popen(command, cwd=copy, env=environment, stderr=file)
    try:
        yield job, log
    finally:
        job.kill()
        job.wait()


def columns_of_own(database: Database) -> list[str]:
    return [str(row[0]) for row in database.execute("SHOW COLUMNS FROM own")]


def test_a_long_transaction_in_the_way_is_named_and_keeps_nobody_waiting(
    database: Database, environment: Environment, copy: Path
) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    with long_transaction(database) as other, other.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        (process,) = cursor.fetchone()
        ended = alembic({**environment, "MIGRATION_ATTEMPTS": "2"}, "upgrade", "head", cwd=copy)
        database.execute("SELECT * FROM own")
    assert ended.returncode == os.EX_TEMPFAIL
    assert "attempt 1 of 2 was refused" in ended.stderr
    named = f"process {process}, user '{environment['DB_USERNAME']}' from "
    assert named in sentence(ended)
    assert "was in use at each of 2 attempts" in sentence(ended)
    assert columns_of_own(database) == ["id"]


def test_it_goes_on_when_the_transaction_has_ended(database: Database, environment: Environment, copy: Path) -> None:
    with long_transaction(database) as other, running(environment, copy) as (job, log):
        wait_until(lambda: "attempt 1 of 10" in log.read_text(), limit=60, process=job, log=log)
        other.rollback()
        assert job.wait(60) == 0, log.read_text()
    assert columns_of_own(database) == ["id", "a"]


@pytest.mark.any_database
def test_where_the_user_may_not_see_it_it_says_how_to_find_it(
    database: Database, environment: Environment, copy: Path
) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    database.server.execute(f"REVOKE PROCESS ON *.* FROM '{environment['MIGRATION_DB_USERNAME']}'@'%'")
    with long_transaction(database):
        ended = alembic({**environment, "MIGRATION_ATTEMPTS": "1"}, "upgrade", "head", cwd=copy)
    assert ended.returncode == os.EX_TEMPFAIL
    assert "SELECT * FROM information_schema.innodb_trx ORDER BY trx_started" in sentence(ended)


@pytest.mark.any_database
def test_a_job_that_is_killed_while_it_waits_leaves_all_as_it_was(
    database: Database, environment: Environment, copy: Path
) -> None:
    with long_transaction(database), running(environment, copy) as (job, log):
        wait_until(lambda: "attempt 1 of 10" in log.read_text(), limit=60, process=job, log=log)
        job.send_signal(signal.SIGKILL)
        job.wait()
        assert columns_of_own(database) == ["id"]
    assert alembic(environment, "upgrade", "head", cwd=copy).returncode == 0
    assert columns_of_own(database) == ["id", "a"]


@pytest.mark.any_database
def test_a_revision_that_was_stopped_before_it_was_noted_says_the_way_out(
    database: Database, environment: Environment, copy: Path
) -> None:
    database.execute("ALTER TABLE own ADD COLUMN a INT")
    ended = alembic(environment, "upgrade", "head", cwd=copy)
    assert ended.returncode == SOFTWARE
    assert sentence(ended).startswith("Revision 0100 (0100_own.py, line 9) failed (error 1060: Duplicate column name")
    assert "note it by `./run migrate stamp 0100`" in sentence(ended)
    assert alembic(environment, "stamp", "0100", cwd=copy).returncode == 0
    assert alembic(environment, "upgrade", "head", cwd=copy).returncode == 0


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise ValueError('on purpose')", "failed (ValueError: on purpose)"),
        ("op.execute('ALTER TABLE none_such DROP COLUMN a')", "failed (error 1146: "),
    ],
)
def test_a_revision_that_fails_is_named_with_its_line(
    database: Database, environment: Environment, copy: Path, line: str, said: str
) -> None:
    write_revision(copy, "0101", line, after="0100")
    ended = alembic(environment, "upgrade", "head", cwd=copy)
    assert ended.returncode == SOFTWARE
    assert f"Revision 0101 (0101_own.py, line 9) {said}" in sentence(ended)
    assert "the schema stays at 0100" in sentence(ended)
    assert database.execute("SELECT version_num FROM alembic_version") == [("0100",)]
    assert columns_of_own(database) == ["id", "a"]


@pytest.mark.any_database
def test_two_heads_are_named_and_nothing_is_changed(database: Database, environment: Environment, copy: Path) -> None:
    write_revision(copy, "0200", "pass")
    ended = alembic(environment, "upgrade", "head", cwd=copy)
    assert ended.returncode == SOFTWARE
    assert "There are 2 heads (0100, 0200)" in sentence(ended)
    assert database.execute("SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_the_runbook_has_each_exit_code() -> None:
    ways = re.findall(r"Exit\.([A-Z]+)", "".join(path.read_text() for path in (ROOT / "migrations").glob("*.py")))
    migrations = (ROOT / "docs/runbook.md").read_text().partition("## Migrations")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ", migrations, re.MULTILINE)
    assert {int(row) for row in rows} == {0, *(getattr(os, f"EX_{way}") for way in ways)}


MOMENTS: list[Moment] = ["before", "answered"]


@pytest.mark.any_database
@pytest.mark.parametrize(
    "all_steps", [pytest.param(True, marks=pytest.mark.rehearsal), pytest.param(False, id="short")]
)
async def test_a_migration_that_is_cut_off_at_any_step_is_done_by_the_next(
    database: Database, environment: Environment, all_steps: bool
) -> None:
    """To the server, a job that was killed is a connection that has ended."""
    steps = statements(alembic(environment, "upgrade", "head", "--sql").stdout)[2:]
    for moment in MOMENTS if all_steps else MOMENTS[1:]:
        for step in steps if all_steps else [one for one in steps if one.startswith("ALTER")]:
            with new_database(database.server) as own:
                async with proxy(own.server.port) as here:
                    here.cuts = [Cut(step.splitlines()[0].replace("`", ""), moment)]
                    behind = {**environment, **own.environment, "DB_PORT": str(here.port)}
                    ended = await asyncio.to_thread(alembic, behind, "upgrade", "head")
                    assert not here.cuts, f"it did not come to {step}:\n{ended.stderr}"
                assert ended.returncode == os.EX_UNAVAILABLE, ended.stderr
                assert "the connection to the database was lost" in sentence(ended)
                ended = await asyncio.to_thread(alembic, {**environment, **own.environment}, "upgrade", "head")
                assert ended.returncode == 0, ended.stderr
                assert schema(own) == schema(database)
