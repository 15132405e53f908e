"""Fixtures for tests of one file that share a database, each with a counter of its own: import them by name."""

import uuid
from collections.abc import Iterator

import pytest

from harness.databases import Database, DatabaseServer, new_database
from tests.conftest import SECRET_KEY, MakeTables

__all__ = ["environment", "name", "shared"]


@pytest.fixture(scope="module")
def shared(server: DatabaseServer, make_tables: MakeTables) -> Iterator[Database]:
    """One database for all tests of this file, each of which has a counter of its own."""
    with new_database(server) as database:
        make_tables(database)
        yield database


@pytest.fixture
def name(shared: Database) -> str:
    """A counter's."""
    name = f"c-{uuid.uuid4().hex}"
    shared.execute("INSERT INTO counter (name, count) VALUES (%s, 0)", name)
    return name


@pytest.fixture
def environment(shared: Database, plain_environment: dict[str, str]) -> dict[str, str]:
    return {**plain_environment, **shared.environment, "SECRET_KEY": SECRET_KEY}
