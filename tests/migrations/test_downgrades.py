"""What a revision's downgrade leaves.

pytest-alembic 0.13.1 was tried for this: its tests of heads, upgrades and metadata say nothing that test_migrations.py
does not, its test of downgrades wants a database whose DDL is transactional, and with pytest 9 it does not run.
"""

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from harness.databases import Database
from service.platform.settings import ROOT
from tests.migrations.revisions import one_alembic
from tests.migrations.test_migrations import Environment, schema


@pytest.mark.any_database
def test_each_downgrade_takes_back_its_own_revision_and_no_more(
    empty_database: Database, environment: Environment
) -> None:
    walked = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions()
    revisions = ["base", *reversed([revision.revision for revision in walked])]
    going_up = {"base": schema(empty_database)}
    with one_alembic(environment) as alembic:
        for revision in revisions[1:]:
            alembic("upgrade", revision)
            going_up[revision] = schema(empty_database)
        for revision in reversed(revisions[:-1]):
            alembic("downgrade", revision)
            assert schema(empty_database) == going_up[revision]
