import asyncio
import itertools
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from harness.databases import Database
from harness.processes import Hypercorn, stop, wait_until
from service.platform import jobs
from service.platform.database import Unavailable
from service.platform.job_schedule import Job, next_due
from service.platform.settings import ROOT
from tests.conftest import MakeApp, Start

EACH_SECOND = "* * * * * *"
A_RUN, ANOTHER_RUN = b"a" * 16, b"b" * 16
RUNS = "CREATE TABLE probe_run (due_at DATETIME, begun DATETIME(6), ended DATETIME(6))"


def start_probe(start: Start, schedule: str = EACH_SECOND, seconds: float = 0, workers: int = 1) -> Hypercorn:
    """Starts a server whose job notes its run in probe_run, and takes so many seconds."""
    return start(app="tests.platform.probe:app", workers=workers, PROBE_JOB=schedule, PROBE_JOB_SECONDS=seconds)


def state(database: Database) -> tuple[object, ...]:
    """Returns whether the job's last run has ended, and its error."""
    ((ended, error),) = database.execute("SELECT ended_at IS NOT NULL, error FROM job WHERE name = 'probe'")
    return bool(ended), error


def test_each_time_that_a_job_is_due_one_worker_of_all_runs_it_and_none_while_another_does(
    database: Database, start: Start
) -> None:
    database.execute(RUNS)
    for _ in range(2):
        start_probe(start, seconds=1.2, workers=2)
    wait_until(lambda: len(database.execute("SELECT * FROM probe_run WHERE ended IS NOT NULL")) >= 3)
    runs = database.execute("SELECT due_at, begun, ended FROM probe_run WHERE ended IS NOT NULL ORDER BY begun")
    assert len({due for due, *_ in runs}) == len(runs)
    for (_, _, ended), (_, begun, _) in itertools.pairwise(runs):
        assert ended <= begun


@pytest.mark.parametrize(
    ("due", "seen", "ended", "is_begun"),
    [
        (-120, -61, "NULL", True),  # its worker was killed
        (-120, -40, "NULL", False),
        (-120, -40, "UTC_TIMESTAMP(6)", True),
        (+50, -40, "UTC_TIMESTAMP(6)", False),  # the clock of its worker is ahead
        (+3600, -40, "UTC_TIMESTAMP(6)", True),  # a clock was set back
        (-120, +3600, "NULL", True),
    ],
)
async def test_a_job_is_begun_where_it_has_ended_or_its_worker_is_lost(
    *, due: int, seen: int, ended: str, is_begun: bool, database: Database, make_app: MakeApp
) -> None:
    database.execute(
        "INSERT INTO job (name, due_at, seen_at, ended_at) VALUES ('probe', UTC_TIMESTAMP() + INTERVAL %s SECOND,"
        f" UTC_TIMESTAMP(6) + INTERVAL %s SECOND, {ended})",
        due,
        seen,
    )
    app, one = make_app(), Job("probe", EACH_SECOND, asyncio.Event().wait)
    async with app.test_app(), app.app_context():
        assert await jobs.begin(one, datetime.now(UTC), A_RUN) == is_begun
        assert (
            await jobs.begin(one, datetime.now(UTC), A_RUN) == is_begun
        )  # where it was not known whether it was noted
        assert not await jobs.begin(one, datetime.now(UTC), ANOTHER_RUN)


async def test_a_database_whose_clock_is_behind_is_told_and_two_jobs_of_a_name_are_refused(
    database: Database, make_app: MakeApp
) -> None:
    app, one = make_app(), Job("probe", EACH_SECOND, asyncio.Event().wait)
    jobs.add(app, one)
    with pytest.raises(ValueError, match="there is a job probe already"):
        jobs.add(app, one)
    async with app.test_app(), app.app_context():
        with pytest.raises(Unavailable, match="its clock is behind"):
            await jobs.begin(one, datetime.now(UTC) + timedelta(seconds=90), A_RUN)


def test_a_worker_that_leaves_lets_its_job_end_in_time(database: Database, start: Start) -> None:
    database.execute(RUNS)
    server = start_probe(start, seconds=2)
    wait_until(lambda: database.execute("SELECT * FROM probe_run"))
    stop(server.process)
    assert state(database) == (True, None)
    assert not database.execute("SELECT * FROM probe_run WHERE ended IS NULL")


def test_a_job_that_takes_too_long_is_cancelled_when_its_worker_leaves(database: Database, start: Start) -> None:
    database.execute(RUNS)
    server = start_probe(start, seconds=60)
    wait_until(lambda: database.execute("SELECT * FROM probe_run"))
    stop(server.process)
    assert state(database) == (True, "stopped, since its worker left")


def test_what_another_has_taken_over_is_cancelled(database: Database, start: Start) -> None:
    database.execute(RUNS)
    server = start_probe(start, seconds=60)
    wait_until(lambda: database.execute("SELECT * FROM probe_run"))
    database.execute("UPDATE job SET run = 'another'")
    wait_until(lambda: server.logged("_TakenOver"))
    assert state(database) == (False, None)  # the other's


def test_a_job_that_fails_is_logged_and_runs_again(database: Database, start: Start) -> None:
    server = start_probe(start)  # there is no table probe_run
    wait_until(lambda: server.log.read_text().count("job probe ended after") >= 2)
    assert server.log.read_text().count("job probe failed") == 1  # what repeats is folded
    wait_until(lambda: state(database) == (True, "Unavailable: see the log"))


def test_what_is_due_while_the_database_is_away_runs_when_it_is_back(database: Database, start: Start) -> None:
    database.execute(RUNS)
    database.execute("RENAME TABLE job TO away")
    server = start_probe(start, EACH_SECOND)
    wait_until(lambda: server.logged("job probe is due, and the database cannot be used"))
    database.execute("RENAME TABLE away TO job")
    wait_until(lambda: database.execute("SELECT * FROM probe_run WHERE ended IS NOT NULL"))


def test_the_list_says_when_jobs_are_due_and_what_became_of_them(
    database: Database, environment: dict[str, str]
) -> None:
    def listed() -> str:
        command = [sys.executable, "-m", "quart", "--app", "tests.platform.probe:app", "jobs", "list"]
        given = {**environment, "PROBE_JOB": "0 0 1 1 *"}
        return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True).stdout

    new_year = f"{datetime.now(UTC).year + 1}-01-01 00:00"
    assert f"probe  0 0 1 1 *  {new_year}  never" in listed()
    for ended, error, became in (
        ("NULL", "NULL", "its worker was lost"),
        ("seen_at", "'ValueError: see the log'", "ValueE"),
    ):
        database.execute(
            "REPLACE INTO job (name, due_at, seen_at, ended_at, error)"
            f" VALUES ('probe', '2026-01-01', '2026-01-01', {ended}, {error})"
        )
        assert f"2026-01-01 00:00  {became}" in " ".join(listed().split()).replace(" 00:00", " 00:00 ")


def test_a_schedule_is_read_as_cron_reads_it() -> None:
    saturday = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
    assert next_due("23 * * * *", saturday) == saturday + timedelta(minutes=23)
    assert next_due("0 12 * * 0", saturday) == saturday + timedelta(days=1)  # Sunday
    assert next_due("0 12 29 * 1", saturday) == saturday + timedelta(days=1)  # the 29th, or a Monday
    for malformed in "", "* * * *", "61 * * * *", "0 0 30 2 *", "hourly":
        with pytest.raises(ValueError, match=r"crontab\(5\)"):
            next_due(malformed, saturday)
