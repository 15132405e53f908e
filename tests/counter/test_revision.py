from harness.databases import Database
from tests.conftest import migrate


def test_the_first_revision_makes_the_counter_with_its_one_row_at_0(database: Database) -> None:
    assert database.execute("SELECT id, count FROM counter") == [(1, 0)]


def test_the_count_is_an_unsigned_bigint(database: Database) -> None:
    ((kind,),) = database.execute(
        "SELECT COLUMN_TYPE FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'counter' AND COLUMN_NAME = 'count'"
    )
    assert kind in {"bigint unsigned", "bigint(20) unsigned"}


def test_an_upgrade_that_was_stopped_between_two_statements_is_done_by_the_next(
    database: Database, environment: dict[str, str]
) -> None:
    database.execute("UPDATE counter SET count = 7")
    database.execute("DELETE FROM alembic_version")
    migrate(environment)
    assert database.execute("SELECT id, count FROM counter") == [(1, 7)]
