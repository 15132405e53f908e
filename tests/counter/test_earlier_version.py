"""The version before this one serves hits while its database is migrated, and beside this one afterwards."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from harness.databases import Database
from harness.environments import environment as own_python
from harness.load import get_at_once
from harness.processes import hypercorn, is_ready, wait_until
from tests.conftest import migrate
from tests.counter.audit import audit
from tests.counter.earlier_version import earlier_code, earlier_commit
from tests.counter.page import number_in
from tests.counter.test_receipts import receipts, verify

pytestmark = pytest.mark.long

CLIENTS = 16


def requirements(code: Path) -> Path:
    """Returns the file of the version's pins, which has moved."""
    pins = code / "requirements/production.txt"
    return pins if pins.exists() else code / "requirements.txt"


async def test_it_serves_hits_while_the_schema_is_migrated_and_beside_the_new_code(
    empty_database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    if earlier_commit() is None:
        pytest.skip("git's history is not here, as in a shallow clone: git fetch --unshallow --tags")
    code = tmp_path / "earlier"
    code.mkdir()
    earlier_code(code)
    python = own_python("earlier_version", requirements(code))
    before = {name: value for name, value in environment.items() if name != "COVERAGE_AT_IMPORT"}
    migrate(before, code, python)
    with hypercorn(before, tmp_path / "earlier.log", cwd=code, python=python, workers=1) as earlier:
        wait_until(lambda: is_ready(earlier), process=earlier.process, log=earlier.log)
        old = "127.0.0.1", earlier.port
        migration = asyncio.create_task(asyncio.to_thread(migrate, environment))
        answers = await get_at_once([old], CLIENTS, CLIENTS, until=migration)
        await migration
        with hypercorn(environment, tmp_path / "new.log", workers=1) as new:
            wait_until(lambda: is_ready(new), process=new.process, log=new.log)
            answers += await get_at_once([old, ("127.0.0.1", new.port)], 400, CLIENTS)
        assert is_ready(earlier)
    assert Counter(status for status, _ in answers) == {200: len(answers)}
    assert sorted(number_in(body) for _, body in answers) == list(range(1, len(answers) + 1))
    assert "gap" in verify(environment).stdout
    filled = receipts(environment, "fill-gaps", "page")
    assert filled.returncode == 0, filled.stdout + filled.stderr
    assert verify(environment).returncode == 0
    assert audit(empty_database) == len(answers)
