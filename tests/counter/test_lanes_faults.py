"""The connection to the database is cut at every point of what a lane says to it. G1 to G6 hold."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

import pymysql
import pytest

from harness.databases import Database
from harness.proxy import LOGIN, Cut, Moment, Proxy, proxy
from service.counter.batch import Receipt, Replayed
from service.counter.errors import NoSuchCounter
from service.counter.lanes import Lanes
from service.counter.tables import LARGEST
from service.platform.database import OutcomeUnknown, Unavailable
from tests.conftest import MakeApp
from tests.counter.audit import audit
from tests.counter.shared import *  # noqa: F403  # fixtures
from tests.counter.test_lanes_properties import until_idle

FIND, LOOK_UP, COUNT = "SELECT id FROM counter", "FROM receipt", "UPDATE counter"
KILL, LOCK = "IS_USED_LOCK", "FOR UPDATE"
SHORT = {"DB_LOCK_TIMEOUT": 1, "DB_STATEMENT_TIMEOUT": 2, "DB_CONNECT_TIMEOUT": 1, "DB_POOL_TIMEOUT": 10}

EVERY_MOMENT: list[Moment] = ["before", "within", "sent", "answered"]
CUTS = [
    *([Cut(LOGIN, moment)] for moment in EVERY_MOMENT),
    *([Cut("SET NAMES", moment)] for moment in EVERY_MOMENT),
    *([Cut("GET_LOCK", moment)] for moment in EVERY_MOMENT),
    *([Cut(FIND, moment)] for moment in EVERY_MOMENT),
    *([Cut(LOOK_UP, moment)] for moment in EVERY_MOMENT),
    *([Cut(COUNT, moment)] for moment in EVERY_MOMENT),
    *([Cut(COUNT, results=results)] for results in (1, 2, 3)),
    [Cut(COUNT, "silent")],
    [Cut(COUNT, "refused", results=3)],  # the COMMIT's result: done, and then answered with an error
    *([Cut(COUNT, first), Cut(KILL, moment)] for first in ("within", "sent") for moment in EVERY_MOMENT),
    *([Cut(COUNT, first), Cut(LOCK, moment)] for first in ("within", "sent") for moment in EVERY_MOMENT),
    *([Cut(COUNT, first), Cut(LOOK_UP, moment)] for first in ("within", "sent") for moment in EVERY_MOMENT),
    *([Cut(COUNT, "within"), Cut(COUNT, moment)] for moment in EVERY_MOMENT),
    [Cut(COUNT, "within"), Cut(LOCK, "silent")],
    [Cut(COUNT, "before"), Cut(LOCK, "silent"), Cut(LOCK, "silent"), Cut(COUNT, "sent")],
]


def described(cuts: list[Cut]) -> str:
    return ", ".join(f"{cut.statement} {cut.moment} {cut.results or ''}".strip() for cut in cuts)


@asynccontextmanager
async def lanes_behind(here: Proxy, make_app: MakeApp, **settings: object) -> AsyncIterator[Lanes]:
    """A worker's lanes, whose connections go through the proxy; everything else has ended its own."""
    app = make_app(DB_PORT=here.port, **{**SHORT, **settings})
    async with asyncio.timeout(60), app.test_app():
        await until_alone(here)
        yield app.extensions["lanes"]


async def until_alone(here: Proxy) -> None:
    """Returns when the worker is ready and has looked at the server, so that no connection is left."""
    while here.open or any(task.get_name() == "readiness" for task in asyncio.all_tasks()):
        await asyncio.sleep(0.02)


@contextmanager
def held(database: Database, name: str) -> Iterator[None]:
    """A stranger's transaction holds the counter's row."""
    with database.server.connect(database=database.name) as stranger:
        stranger.begin()
        stranger.cursor().execute("SELECT * FROM counter WHERE name = %s FOR UPDATE", (name,))
        yield


@pytest.mark.parametrize("cuts", [pytest.param(cuts, id=described(cuts)) for cuts in CUTS])
async def test_a_lost_connection_costs_no_number_and_gives_none_twice(
    cuts: list[Cut], shared: Database, name: str, make_app: MakeApp
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        here.cuts = [Cut(cut.statement, cut.moment, cut.results) for cut in cuts]
        sent = [(1, None), (1, "a"), (3, None), (2, "b"), (1, "a")]
        answers = await asyncio.gather(*(lanes.hit(name, amount, key) for amount, key in sent), return_exceptions=True)
        assert not here.cuts, "the lane never came to this point"
        if cuts[0].statement in {LOGIN, "SET NAMES", "GET_LOCK"}:
            assert all(isinstance(answer, Unavailable) for answer in answers)
            assert audit(shared, name) == 0
            return
        receipts = [answer for answer in answers if isinstance(answer, Receipt)]
        assert len(receipts) == len(answers), answers
        one, a, three, b, a_again = receipts
        assert [(r.first, r.last) for r in (one, three, a, b)] == [(1, 1), (2, 4), (5, 5), (6, 7)]
        assert a_again == a == await lanes.hit(name, 1, "a")
        assert await lanes.hit(name, 2, "b") == b
        answers = [one, a, three, b, a_again, await lanes.hit(name, 1, "a"), await lanes.hit(name, 2, "b")]
        assert [isinstance(answer, Replayed) for answer in answers] == [False] * 4 + [True] * 3
        assert audit(shared, name) == 7
        assert (await lanes.hit(name)).last == 8


async def test_a_lane_logs_outside_the_request_that_made_it(shared: Database, name: str, make_app: MakeApp) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    logged: list[str] = []

    def note(_record: logging.LogRecord) -> bool:
        logged.append(request.get())
        return True

    request.set("the one that made the lane")
    log = logging.getLogger("service.counter.lane")
    log.addFilter(note)
    try:
        async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
            here.cuts = [Cut(COUNT, "sent")]
            await lanes.hit(name)
    finally:
        log.removeFilter(note)
    assert set(logged) == {"none"}


async def test_a_recovery_waits_for_a_session_however_long_others_need_it(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    shared.execute("INSERT INTO counter (name, count) VALUES ('held', 0)")
    scarce = {"LANE_POOL_SIZE": 1, "DB_POOL_TIMEOUT": 1}
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **scarce) as lanes:
        here.cuts = [Cut(COUNT, "sent")]
        with held(shared, "held"):
            lost, refused = await asyncio.gather(lanes.hit(name), lanes.hit("held"), return_exceptions=True)
        assert not here.cuts
        assert isinstance(refused, Unavailable), "the stranger did not hold the one session for longer than a hit waits"
        assert isinstance(lost, Receipt)
        assert lost.last == audit(shared, name) == 1


@pytest.mark.parametrize("recovery_is_lost", [False, True])
async def test_a_hit_that_may_have_been_counted_is_not_refused_however_late_that_is_known(
    shared: Database, name: str, make_app: MakeApp, recovery_is_lost: bool
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, DB_POOL_TIMEOUT=2) as lanes:
        here.cuts = [Cut(COUNT, "within"), *([Cut(LOCK, "before")] if recovery_is_lost else [])]
        with held(shared, name):
            in_doubt = asyncio.create_task(lanes.hit(name))
            while here.cuts:
                await asyncio.sleep(0.01)
            for _ in range(2):  # the first is refused when it has waited for as long, and reruns are a second apart
                with pytest.raises(Unavailable):
                    await lanes.hit(name)
            assert not in_doubt.done()
        assert (await in_doubt).last == audit(shared, name) == 1


async def test_a_batch_for_which_nobody_waits_any_longer_is_dropped(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        here.cuts = [Cut(COUNT, "within")]
        with held(shared, name):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(lanes.hit(name), 0.5)
            assert not here.cuts
            await until_idle()
        assert audit(shared, name) == 0
        assert lanes.lost[name], "the connection that may still hold the row is forgotten"
        assert (await lanes.hit(name)).last == 1


async def test_a_connection_lost_at_a_counter_that_is_not_there_is_not_remembered(
    shared: Database, make_app: MakeApp
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        here.cuts = [Cut(FIND, "sent")]
        with pytest.raises(NoSuchCounter):
            await lanes.hit("not-there")
        assert not here.cuts
        assert not lanes.lost


@pytest.mark.parametrize("moment", EVERY_MOMENT)
async def test_a_put_that_is_answered_503_has_done_nothing(
    shared: Database, name: str, make_app: MakeApp, moment: Moment
) -> None:
    async with proxy(shared.server.port) as here:
        app = make_app(DB_PORT=here.port, API_TOKENS_REQUIRED="false", **SHORT)
        async with asyncio.timeout(60), app.test_app():
            client = app.test_client()
            await until_alone(here)
            for new in f"{name}-new", name:  # made, and given a title
                here.cuts = [Cut("AS last_hit", moment)]
                answer = await client.put(f"/counters/{new}", json={"title": "new"})
                assert not here.cuts
                assert answer.status_code == 503
                assert not shared.execute("SELECT * FROM counter WHERE name = %s AND title = 'new'", new)


async def test_a_connection_that_a_dropped_batch_has_left_is_ended_by_the_next(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        user, password = shared.environment["DB_USERNAME"], shared.environment["DB_PASSWORD"]
        with pymysql.connect(
            host="127.0.0.1", port=shared.server.port, database=shared.name, user=user, password=password
        ) as left:
            left.cursor().execute("DO GET_LOCK('tally:left', 0)")
            left.cursor().execute("SELECT * FROM counter WHERE name = %s FOR UPDATE", (name,))
            lanes.lost[name] = {"tally:left"}
            assert (await lanes.hit(name)).last == 1
            with pytest.raises(pymysql.err.OperationalError):
                left.cursor().execute("SELECT 1")
        assert not lanes.lost


async def test_two_with_the_key_that_takes_the_last_number_both_get_it(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    shared.execute("UPDATE counter SET count = %s, start = %s WHERE name = %s", LARGEST - 1, LARGEST - 1, name)
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        here.cuts = [Cut(COUNT, "before")]
        both = await asyncio.gather(lanes.hit(name, 1, "a"), lanes.hit(name, 1, "a"))
        assert [receipt.last for receipt in both] == [LARGEST, LARGEST]


async def test_a_defect_answers_those_who_wait_and_the_lane_goes_on(
    shared: Database, name: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        with monkeypatch.context() as patch:
            patch.delattr(lanes.connections, "_turns")
            with pytest.raises(OutcomeUnknown):
                await lanes.hit(name)
        assert (await lanes.hit(name)).last == 1


async def test_what_the_network_held_back_counts_nothing_after_the_recovery(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        await lanes.hit(name)
        here.cuts = [Cut(COUNT, "stalled")]
        assert (await lanes.hit(name, 2)).last == 3
        here.release()
        assert (await lanes.hit(name)).last == 4
        assert audit(shared, name) == 4
