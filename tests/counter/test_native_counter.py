"""The counter in an installation by `./run up`: nothing is lost or given twice, however it is stopped."""

import os
import re
import subprocess
from collections.abc import Iterator

import httpx
import pymysql
import pytest

from harness.load import get_at_once
from harness.native import Installation, installation
from harness.processes import wait_until

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]) -> Iterator[Installation]:
    """An installation that answers; each test leaves it so."""
    with installation(tmp_path_factory.mktemp("native"), plain_environment) as made:
        made.up()
        yield made


def hit(counting: Installation) -> int:
    """Counts one hit and returns its number."""
    answer = httpx.get(counting.url)
    assert answer.status_code == 200, answer.text
    return number_in(answer.text)


def number_in(page: str) -> int:
    found = re.fullmatch(r"<h1>Counter: (\d+)</h1>", page)
    assert found, page
    return int(found[1])


def test_the_first_visit_says_1_and_the_count_goes_on_after_a_stop(counting: Installation) -> None:
    assert [hit(counting), hit(counting)] == [1, 2]
    assert counting.interrupt() == 0
    counting.up()
    assert hit(counting) == 3


@pytest.mark.parametrize("count", [pytest.param(20_000, marks=pytest.mark.rehearsal), 4000])
async def test_many_hits_on_fifty_connections_get_a_number_each(counting: Installation, count: int) -> None:
    before = hit(counting)
    port = int(counting.settings["HTTP_PORT"])
    answers = await get_at_once([("127.0.0.1", port)], count, connections=50)
    assert {status for status, _ in answers} == {200}
    assert sorted(number_in(body) for _, body in answers) == list(range(before + 1, before + count + 1))


def test_a_number_that_was_given_survives_a_kill_of_every_process(counting: Installation) -> None:
    before = hit(counting)
    counting.kill()
    counting.up()
    assert hit(counting) == before + 1


def test_a_table_that_was_dropped_by_mistake_is_restored_with_all_numbers(counting: Installation) -> None:
    def done(*command: str, given: str = "") -> str:
        ended = counting.run(*command, given=given)
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    hit(counting)
    assert "was restored: " in done("./run", "backup")
    assert counting.interrupt() == 0
    counting.up()  # on another port of the database, and with statements about users in its binary log
    given = [hit(counting) for _ in range(5)][-1]
    root = (counting.directory / ".run/secrets/mysql_root_password").read_text()
    with pymysql.connect(
        unix_socket=os.path.relpath(counting.directory / ".run/mariadb/data/mariadb.sock"),
        user="root",
        password=root,
        database="tally",
    ) as session:
        session.cursor().execute("DROP TABLE receipt")
    done("./run", "backup", "--logs")
    *_, last = done("./run", "backup", "--changes").splitlines()
    assert "DROP TABLE" in last
    restore = "./run", "restore", "--in-place", "--to", last.split()[1]
    assert "stop it first" in counting.run(*restore).stdout
    assert counting.interrupt() == 0
    assert "Nobody is here to be asked" in counting.run(*restore).stdout
    with subprocess.Popen(
        [*restore, "--yes"], cwd=counting.directory, env={**counting.environment, **counting.settings}
    ) as restoring:
        wait_until((counting.directory / ".run/mariadb/restored").exists)
        assert "runs already in this folder, or ./run restore" in counting.run("./run", "up").stdout
    assert restoring.returncode == 0
    assert not (counting.directory / ".run/mariadb/data/backup-identity").exists(), "it has logs of its own now"
    counting.up()
    assert hit(counting) == given + 1
    done("./run", "quart", "receipts", "verify")


def test_a_load_run_ends_with_0(counting: Installation) -> None:
    locust = "visitors --headless --users 50 --spawn-rate 50 --hits 200"
    ended = counting.run("./run", "load", *locust.split(), HTTP_PORT="1")  # not where it runs
    assert ended.returncode == 0, ended.stdout
