import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from harness.databases import Database, make_database, new_database, private_mariadb
from harness.processes import free_port, wait_until
from service.platform.settings import ROOT
from tests.migrations.revisions import HEAD, copy_migrations, one_alembic, statements

Environment = dict[str, str]

SOFTWARE = os.EX_SOFTWARE
"""A revision that cannot be carried out (EX_SOFTWARE)."""


def alembic(
    environment: Environment, *arguments: str, cwd: Path = ROOT, limit: float = 60
) -> subprocess.CompletedProcess[str]:
    """Runs the `alembic` command, for up to `limit` seconds, and returns what it did."""
    command = [sys.executable, "-m", "alembic", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=limit)


def sentence(ended: subprocess.CompletedProcess[str]) -> str:
    """Returns the one sentence with which a command gave up, after lines of progress at the most."""
    *before, last = ended.stderr.splitlines()
    assert all(line.startswith("{") for line in before), ended.stderr
    return last


def tables(database: Database) -> set[str]:
    return {name for (name,) in database.execute("SHOW TABLES")}


def schema(database: Database) -> dict[str, str]:
    """Returns the definition of each table but Alembic's own, without what differs with its rows and its making."""
    names = tables(database) - {"alembic_version"}
    made = {name: str(database.execute(f"SHOW CREATE TABLE `{name}`")[0][1]) for name in names}
    return {name: re.sub(r" AUTO_INCREMENT=\d+| CHARACTER SET \w+(?= COLLATE)", "", sql) for name, sql in made.items()}


def columns(database: Database) -> list[tuple[object, ...]]:
    return database.execute(
        "SELECT TABLE_NAME, ENGINE, TABLE_COLLATION FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
        " AND TABLE_NAME <> 'alembic_version'"
    )


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_heads()) == 1


def test_the_schema_goes_up_down_and_up_again_and_is_what_the_metadata_says(
    empty_database: Database, environment: Environment
) -> None:
    with one_alembic(environment) as run:
        for command in ["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"], ["check"]:
            run(*command)
            if command[0] == "downgrade":
                assert tables(empty_database) == {"alembic_version"}
        assert HEAD in run("current")
        assert HEAD in run("history")
    assert {(engine, collation) for _, engine, collation in columns(empty_database)} <= {
        ("InnoDB", "utf8mb4_unicode_ci")
    }


def test_autogenerate_writes_the_difference_between_metadata_and_database(
    database: Database, environment: Environment, tmp_path: Path
) -> None:
    copy_migrations(tmp_path)
    module = tmp_path / "service/platform/database.py"
    module.write_text(
        f"{module.read_text()}\n\nfrom sqlalchemy import Column, Integer, Table\n\n"
        'probe = Table("probe_of_autogenerate", metadata, Column("id", Integer, primary_key=True),'
        ' Column("n", Integer, unique=True))\n'
    )
    assert alembic(environment, "check", cwd=tmp_path).returncode != 0
    ended = alembic(environment, "revision", "--autogenerate", "-m", "a probe", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    (made,) = (tmp_path / "migrations/versions").glob("*_a_probe.py")
    assert "uq_probe_of_autogenerate_n" in made.read_text()
    ((before,),) = database.execute("SELECT version_num FROM alembic_version")
    for _ in range(2):  # the second as after a job that was stopped before it wrote the revision down
        database.execute(f"UPDATE alembic_version SET version_num = '{before}'")
        ended = alembic(environment, "upgrade", "head", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert "probe_of_autogenerate" in tables(database)
    ended = alembic(environment, "downgrade", "-1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "probe_of_autogenerate" not in tables(database)


def test_two_jobs_at_once_both_end_well(empty_database: Database, environment: Environment) -> None:
    with ThreadPoolExecutor(4) as threads:
        ended = list(threads.map(lambda _: alembic(environment, "upgrade", "head"), range(4)))
    assert [one.returncode for one in ended] == [0] * 4, [one.stderr for one in ended]
    assert sum("Running upgrade" in one.stderr for one in ended) == 1


def test_a_job_that_does_not_get_the_lock_says_so(empty_database: Database, environment: Environment) -> None:
    with empty_database.server.connect() as other, other.cursor() as cursor:
        cursor.execute(f"SELECT GET_LOCK('migration:{empty_database.name}', 0), CONNECTION_ID()")
        _, holder = cursor.fetchone()
        ended = alembic({**environment, "MIGRATION_LOCK_TIMEOUT": "1"}, "upgrade", "head")
    assert ended.returncode == os.EX_TEMPFAIL
    assert "raise MIGRATION_LOCK_TIMEOUT" in sentence(ended)
    assert f"(the server's process {holder})" in sentence(ended)
    assert not tables(empty_database)


def test_a_schema_newer_than_the_code_is_left_alone(database: Database, environment: Environment) -> None:
    database.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    ended = alembic(environment, "upgrade", "head")
    assert ended.returncode == os.EX_DATAERR
    assert "'" not in sentence(ended).replace("database's", "").replace("code's", "")
    assert "at revision from_the_future, which this code does not know" in sentence(ended)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("MIGRATION_DB_PASSWORD", "wrong", "error 1045"),
        ("DATABASE_NAME", "tally_test_none", "error 10(49|44)"),
    ],
)
def test_a_database_that_refuses_is_said_at_once(
    empty_database: Database, environment: Environment, name: str, value: str, named: str
) -> None:
    ended = alembic({**environment, name: value}, "upgrade", "head")
    assert ended.returncode == os.EX_NOPERM
    assert re.search(named, sentence(ended))
    assert name in sentence(ended)


def test_a_malformed_setting_is_said_in_a_sentence(plain_environment: Environment) -> None:
    ended = alembic({**plain_environment, "DB_HOST": "x", "DB_USERNAME": "y"}, "upgrade", "head")
    assert ended.returncode == os.EX_CONFIG
    assert "DB_PASSWORD" in sentence(ended)


def test_a_server_that_is_not_there_is_waited_for_with_a_limit(plain_environment: Environment) -> None:
    environment = {**plain_environment, "DB_HOST": "127.0.0.1", "DB_PORT": str(free_port()), "DB_USERNAME": "y"}
    ended = alembic({**environment, "DB_PASSWORD": "z", "MIGRATION_WAIT_TIMEOUT": "2"}, "upgrade", "head")
    assert ended.returncode == os.EX_UNAVAILABLE
    assert "No database at 127.0.0.1" in sentence(ended)
    assert "waiting for the database" in ended.stderr


def test_a_server_that_comes_later_is_migrated(plain_environment: Environment, tmp_path: Path) -> None:
    port = free_port()
    with private_mariadb(tmp_path, port) as server:
        made = make_database(server)
        server.end(signal.SIGTERM)
        log = tmp_path / "alembic.log"
        with log.open("w") as file:
            job = subprocess.Popen(
                [sys.executable, "-m", "alembic", "upgrade", "head"],
                cwd=ROOT,
                env={**plain_environment, **made.environment},
                stderr=file,
            )
        wait_until(lambda: "waiting for the database" in log.read_text(), process=job)
        with private_mariadb(tmp_path, port):
            assert job.wait(60) == 0, log.read_text()


def test_sql_for_a_server_out_of_reach_is_printed_without_a_connection(plain_environment: Environment) -> None:
    environment = {**plain_environment, "DB_HOST": "no-such-host.invalid", "DB_USERNAME": "y", "DB_PASSWORD": "z"}
    ended = alembic(environment, "upgrade", "head", "--sql")
    assert ended.returncode == 0, ended.stderr
    assert "INSERT INTO alembic_version" in ended.stdout
    assert "lock_wait_timeout = 1," in ended.stdout


def test_what_sql_prints_makes_the_same_schema(database: Database, environment: Environment) -> None:
    printed = statements(alembic(environment, "upgrade", "head", "--sql").stdout)
    with new_database(database.server) as by_hand:
        by_hand.make_tables(printed)
        assert schema(by_hand) == schema(database)
        assert by_hand.execute("SELECT * FROM alembic_version") == [(HEAD,)]
