from tests.databases import Database


def test_the_first_revision_makes_the_counter_with_its_one_row_at_0(database: Database) -> None:
    assert database.execute("SELECT id, count FROM counter") == [(1, 0)]


def test_the_count_is_an_unsigned_bigint(database: Database) -> None:
    ((kind,),) = database.execute(
        "SELECT COLUMN_TYPE FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'counter' AND COLUMN_NAME = 'count'"
    )
    assert kind in {"bigint unsigned", "bigint(20) unsigned"}
