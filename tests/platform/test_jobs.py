"""Jobs on a schedule. The sessions of one pool stand for workers: a lock is a session's."""

import asyncio

import pytest

from harness.databases import Database
from service.platform import jobs
from service.platform.app import App
from tests.conftest import MakeApp

DUE = "0 0 1 1 *"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HOLD", 1.0)


class Work:
    """A job that waits until it is told to end."""

    def __init__(self) -> None:
        self.runs = 0
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        self.begun.set()
        await self.may_end.wait()


async def run_once(app: App, work: Work, name: str = "work") -> bool:
    return await jobs.run_once(app, app.extensions["engine"], jobs.Job(name, DUE, work.run))


@pytest.mark.usefixtures("database", "at_once")
async def test_it_runs_once_however_many_find_it_due_and_again_the_next_time(make_app: MakeApp) -> None:
    app, work = make_app(), Work()
    work.may_end.set()
    async with app.test_app():
        for runs in 1, 2:
            ran = await asyncio.gather(*(run_once(app, work) for _ in range(6)))
            assert sorted(ran) == [False] * 5 + [True]
            assert work.runs == runs


@pytest.mark.usefixtures("database", "at_once")
async def test_others_run_beside_it(make_app: MakeApp) -> None:
    app, work, other = make_app(), Work(), Work()
    other.may_end.set()
    async with app.test_app(), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_once(app, work))
        await work.begun.wait()
        assert not await run_once(app, work)
        assert await run_once(app, other, "other")
        work.may_end.set()


@pytest.mark.usefixtures("database", "at_once")
async def test_its_lock_outlasts_the_time_after_which_a_quiet_session_is_ended(make_app: MakeApp) -> None:
    app, work = make_app(DB_IDLE_TIMEOUT=6), Work()
    async with app.test_app(), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_once(app, work))
        await work.begun.wait()
        for _ in range(9):
            assert not await run_once(app, work)
            await asyncio.sleep(1)
        work.may_end.set()


@pytest.mark.usefixtures("at_once")
async def test_it_is_cancelled_where_its_lock_is_lost(database: Database, make_app: MakeApp) -> None:
    app, work = make_app(DB_IDLE_TIMEOUT=6), Work()
    async with app.test_app():
        running = asyncio.create_task(run_once(app, work))
        await work.begun.wait()
        database.kill_connections()
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(running, 10)
        work.may_end.set()
        assert await run_once(app, work)


@pytest.mark.usefixtures("database")
async def test_it_has_some_time_to_end_when_its_worker_leaves_and_is_then_cancelled(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "DRAIN", 0.5)
    monkeypatch.setattr(jobs, "trigger", lambda _: None)  # at once, as APScheduler has it
    app, work = make_app(), Work()
    jobs.add(app, jobs.Job("work", DUE, work.run))
    async with app.test_app():
        await asyncio.wait_for(work.begun.wait(), 10)
    assert work.runs == 1
    assert "failed" not in caplog.text


@pytest.mark.parametrize("schedule", ["", "x", "61 * * * *", "* * * *"])
def test_a_malformed_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match="."):
        jobs.trigger(schedule)
