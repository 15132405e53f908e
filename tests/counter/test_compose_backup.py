"""The drill: a table is dropped by mistake, and every number that was given before it is there again."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.compose import Stack, docker, new_stack
from harness.processes import container_name, free_port
from tests.counter.test_compose_counter import hit

pytestmark = pytest.mark.compose


def test_a_table_that_was_dropped_is_there_again_with_all_numbers_and_the_stack_goes_on_counting(stack: Stack) -> None:
    with ThreadPoolExecutor(1) as threads:
        backup = threads.submit(stack.compose, "run", "--rm", "backup")
        while not backup.done():
            hit(stack)  # is answered all the while
        backup.result()
    docker("restart", f"{stack.project}-mysql-1")  # has its init-file, with users and their rights, in its binary log
    stack.wait_until_ready()
    given = [hit(stack) for _ in range(5)][-1]
    stack.mysql("DROP TABLE receipt")
    assert stack.status("/") == httpx.codes.SERVICE_UNAVAILABLE
    stack.task("backup", "--logs")
    *_, last = stack.task("backup", "--changes").stdout.splitlines()
    assert "DROP TABLE" in last
    restore = "restore", "--in-place", "--to", last.split()[1]
    assert "Nobody is here to be asked" in stack.task(*restore, check=False).stderr
    assert stack.mysql("SHOW TABLES LIKE 'receipt'") == []
    former = docker("volume", "ls", "--quiet", "--filter", f"name=^{stack.project}_data").split()
    stack.task(*restore, "--yes")
    stack.wait_until_ready()
    assert hit(stack) == given + 1
    stack.task("quart", "receipts", "verify")
    docker("volume", "rm", *former)  # which nobody uses any longer


@pytest.mark.rehearsal
def test_a_machine_that_is_gone_costs_nothing_but_what_was_not_copied(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    place.mkdir()
    own = "run", "--rm", "--user", "0", "--volume", f"{place}:/place", "--entrypoint", "chown", "mysql:9.7"
    docker(*own, "999:999", "/place")
    with new_stack(tmp_path / "tally") as made:
        stack = made.over(BACKUP_DIRECTORY=str(place))
        stack.up("--build")
        hit(stack)
        stack.task("backup")
        given = hit(stack)
        stack.task("backup", "--logs")
        hit(stack)
        stack.compose("down", "--volumes")
        stack.up()
        stack.task("restore", "--in-place", "--yes")
        stack.wait_until_ready()
        assert hit(stack) == given + 1
        stack.task("quart", "receipts", "verify")


ROWS = 10_000_000
FILL = """
SET sql_log_bin = 0;
INSERT INTO receipt
WITH RECURSIVE digit (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM digit WHERE n < 9)
SELECT CONCAT(UNHEX(LPAD(HEX(1700000000000 + {0} + n), 12, '0')), RANDOM_BYTES(10)), id, {0} + n, {0} + n,
       UTC_TIMESTAMP(6)
FROM counter, (SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n AS n
               FROM digit a, digit b, digit c, digit d, digit e) AS numbers
WHERE name = 'page' ORDER BY n
"""


@pytest.mark.rehearsal
def test_ten_million_receipts_are_backed_up_and_restored_and_it_says_how_long_that_takes(tmp_path: Path) -> None:
    name = f"{container_name()}-beside"
    with new_stack(tmp_path / "tally") as stack:
        stack.up("--build")
        hit(stack)
        for first in range(2, ROWS + 2, 100_000):
            stack.mysql(FILL.format(first))
        stack.mysql(f"SET sql_log_bin = 0; UPDATE counter SET count = {ROWS + 1} WHERE name = 'page'")
        began = time.monotonic()
        stack.task("backup")
        print(f"backup with its check: {time.monotonic() - began:.0f} s\n{stack.task('backup', '--list').stdout}")
        began = time.monotonic()
        try:
            stack.task("restore", "--beside", name, "--port", str(free_port()))
            print(f"restore, until the replicas are ready: {time.monotonic() - began:.0f} s")
            verify = "quart", "--app", "service.asgi:app", "receipts", "verify", "-v"
            assert f"page: {ROWS + 1}, right" in docker("exec", f"{name}-web-1", *verify)
        finally:
            stack.remove_beside(name)
