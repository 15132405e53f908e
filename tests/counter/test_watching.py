"""Watching counters: what the streams show, and what many of them cost the database."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import httpx
import pytest

from harness.databases import Database
from harness.processes import Hypercorn, ready_hypercorn, wait_until
from service.counter.errors import NoSuchCounter, TooManyWatchers
from service.counter.watching import NOTHING, Reading, Watching
from service.platform.event_stream import BATCH
from tests.conftest import SECRET_KEY
from tests.counter.shared import name, shared
from tests.counter.test_api import problem
from tests.platform.test_event_stream import EVENTS, messages

__all__ = ["name", "shared"]

pytestmark = pytest.mark.any_database

LARGEST = 250
"""MAX_WATCHERS of the service here."""


@pytest.fixture(scope="module")
def service(
    shared: Database, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    """One worker, which reads what is watched ten times a second."""
    log = tmp_path_factory.mktemp("watching") / "log"
    own = {
        "SECRET_KEY": SECRET_KEY,
        "API_TOKENS_REQUIRED": "false",
        "ROLL_UP_SCHEDULE": "",
        "WATCH_INTERVAL": "0.1",
        "MAX_WATCHERS": str(LARGEST),
        "DB_POOL_TIMEOUT": "1",
    }
    with ready_hypercorn({**plain_environment, **shared.environment, **own}, log, workers=1) as running:
        yield running
    assert "Traceback" not in log.read_text()


@pytest.fixture
def client(service: Hypercorn) -> Iterator[httpx.Client]:
    # Shorter than EVENT_HEARTBEAT: a stream that should have ended is a failure, and no endless wait.
    with httpx.Client(base_url=service.url, limits=httpx.Limits(), timeout=10) as client:
        yield client


class Given(Watching):
    """Reads this value of each counter."""

    def __init__(self, value: int, interval: float) -> None:
        super().__init__(interval, largest=LARGEST)
        self.value = value

    async def _read(self, names: Iterable[str]) -> dict[str, Reading] | Exception:
        return {name: read_now(self.value) for name in names}


def read_now(value: int, *, is_private: bool = False) -> Reading:
    return Reading(1, value, is_private, asyncio.get_running_loop().time())


@contextmanager
def watch(client: httpx.Client, name: str, seen: int | str | None = None) -> Iterator[Iterator[dict[str, str]]]:
    """Opens a stream, and hands out the fields of its messages but the first, which says when to come back."""
    headers = EVENTS if seen is None else {**EVENTS, "Last-Event-ID": str(seen)}
    with client.stream("GET", f"/counters/{name}/events", headers=headers) as answered:
        assert answered.status_code == 200, answered.read()
        parts = (dict(line.split(": ", 1) for line in part.splitlines()) for part in messages(answered) if part != ":")
        assert list(next(parts)) == ["retry"]
        yield parts


def event(name: str, value: int) -> dict[str, str]:
    return {"id": str(value), "data": json.dumps({"counter": name, "value": value}, separators=(",", ":"))}


def deleted(name: str) -> dict[str, str]:
    return {"event": "deleted", "data": json.dumps({"counter": name}, separators=(",", ":"))}


def hit(client: httpx.Client, name: str, amount: int = 1) -> int:
    return int(client.post(f"/counters/{name}/hits", json={"amount": amount}).raise_for_status().json()["number"])


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Collects the statements that read what is watched in this database, until the end of the block."""
    found: list[str] = []
    with database.server.variables(log_output="TABLE", general_log=1):
        database.execute("TRUNCATE mysql.general_log")
        yield found
        log = "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE argument LIKE %s"
        found += [row[0] for row in database.execute(log, "SELECT counter.id, counter.name, counter.count%")]


def test_who_watches_gets_the_present_value_at_once_and_each_that_follows(client: httpx.Client, name: str) -> None:
    hit(client, name, 7)
    with watch(client, name) as first, watch(client, name) as second:
        assert [next(first), next(second)] == [event(name, 7)] * 2
        assert hit(client, name) == 8
        assert [next(first), next(second)] == [event(name, 8)] * 2


def test_who_comes_back_gets_what_is_new_alone(client: httpx.Client, name: str) -> None:
    hit(client, name, 3)
    with watch(client, name, seen=2) as behind, watch(client, name, seen=3) as up_to_date:
        assert next(behind) == event(name, 3)
        hit(client, name)
        assert next(up_to_date) == next(behind) == event(name, 4)


@pytest.mark.parametrize("seen", ["4", "-1", "9" * 16, "9" * 5_000, "3.0", "x"])
def test_an_id_that_is_not_of_this_counter_gets_the_present_value(client: httpx.Client, name: str, seen: str) -> None:
    hit(client, name, 3)
    with watch(client, name) as first, watch(client, name, seen=seen) as parts:
        assert next(first) == next(parts) == event(name, 3)
        hit(client, name)
        assert next(parts) == event(name, 4)


async def test_who_has_seen_more_than_a_worker_knows_is_not_taken_back() -> None:
    watching = Given(3, interval=1_000)
    reading = asyncio.create_task(watching.read_and_show())
    with watching.watch("visits", await watching.first("visits", NOTHING), NOTHING, asyncio.Event()):
        watching.value = 5
        assert (await watching.first("visits", 3)).value == 3
        assert (await watching.first("visits", 4)).value == 5
    reading.cancel()


async def test_a_stream_that_begins_late_shows_nothing_of_a_counter_that_became_private() -> None:
    watching = Given(3, interval=1_000)
    with (
        watching.watch("visits", read_now(4, is_private=True), NOTHING, asyncio.Event()) as of_one_who_may,
        watching.watch("visits", read_now(3), NOTHING, asyncio.Event()) as late,
    ):
        first = await late()
        assert first is not None
        assert first.name == "deleted"
        assert await late() is None
        known = await of_one_who_may()
        assert known is not None
        assert known.id == "4"


async def test_those_who_watch_a_counter_each_are_woken_with_pauses_in_between() -> None:
    watching = Given(0, interval=0.001)
    watchers = [asyncio.Event() for _ in range(3 * BATCH)]
    with ExitStack() as stack:
        for number, watcher in enumerate(watchers):
            stack.enter_context(watching.watch(f"c-{number}", read_now(0), NOTHING, watcher))
            watcher.clear()
        watching.value = 1
        reading = asyncio.create_task(watching.read_and_show())
        woken = [0]
        while woken[-1] < len(watchers):
            await asyncio.sleep(0)
            woken.append(sum(watcher.is_set() for watcher in watchers))
        reading.cancel()
    assert max(after - before for before, after in pairwise(woken)) <= BATCH


def test_a_watcher_whose_stream_never_begins_gives_its_place_back() -> None:
    watching = Watching(interval=1, largest=1)
    with watching.admit() as watcher:
        stream = watching.watch("visits", Reading(1, 0, False, read_at=0), NOTHING, watcher)
    with pytest.raises(TooManyWatchers), watching.admit():
        pass
    del watcher, stream
    with pytest.raises(NoSuchCounter), watching.admit():
        raise NoSuchCounter
    with watching.admit():
        pass


async def test_many_who_come_at_once_are_not_more_than_are_allowed(service: Hypercorn, shared: Database) -> None:
    name = f"m-{uuid.uuid4().hex}"
    shared.execute("INSERT INTO counter (name, count) VALUES (%s, 0)", name)
    answered: list[int] = []
    all_answered = asyncio.Event()

    async def come(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", f"/counters/{name}/events", headers=EVENTS) as stream:
            answered.append(stream.status_code)
            if len(answered) == LARGEST + 50:
                all_answered.set()
            await all_answered.wait()

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=30) as client:
        await asyncio.wait_for(asyncio.gather(*(come(client) for _ in range(LARGEST + 50))), 60)
    assert Counter(answered) == {200: LARGEST, 503: 50}


def test_a_stream_shows_no_value_twice_none_lower_and_none_that_the_database_has_not(
    client: httpx.Client, shared: Database, name: str
) -> None:
    with watch(client, name) as parts:
        seen = [int(next(parts)["id"])]
        for _ in range(30):
            hit(client, name)
            if len(seen) < 10:
                seen.append(int(next(parts)["id"]))
                assert seen[-1] <= shared.execute("SELECT count FROM counter WHERE name = %s", name)[0][0]
        while seen[-1] < 30:
            seen.append(int(next(parts)["id"]))
    assert seen == sorted(set(seen))


def test_a_counter_that_is_deleted_says_so_and_its_stream_ends(client: httpx.Client, name: str) -> None:
    with watch(client, name) as first, watch(client, name) as second:
        assert [next(first), next(second)] == [event(name, 0)] * 2
        client.delete(f"/counters/{name}").raise_for_status()
        assert [list(first), list(second)] == [[deleted(name)]] * 2
    assert problem(client.get(f"/counters/{name}/events", headers=EVENTS)) == (404, "no-such-counter")


@pytest.mark.parametrize(
    "becomes",
    [
        pytest.param("id = id + 1000000, count = 9", id="was made in its place"),
        pytest.param("count = 4", id="came back with an older backup"),
    ],
)
def test_another_counter_of_the_name_is_not_taken_for_the_one_that_is_watched(
    client: httpx.Client, shared: Database, name: str, becomes: str
) -> None:
    hit(client, name, 5)
    with watch(client, name) as parts:
        assert next(parts) == event(name, 5)
        shared.execute(f"UPDATE counter SET {becomes} WHERE name = %s", name)
        assert list(parts) == [deleted(name)]
    with watch(client, name) as again:
        assert next(again) == event(name, int(becomes[-1]))


@pytest.mark.parametrize(
    ("path", "status", "kind"), [("nobodys", 404, "no-such-counter"), ("No%20name", 400, "malformed-name")]
)
def test_what_cannot_be_watched_is_refused(client: httpx.Client, path: str, status: int, kind: str) -> None:
    for headers in EVENTS, {**EVENTS, "Last-Event-ID": "7"}:
        assert problem(client.get(f"/counters/{path}/events", headers=headers)) == (status, kind)


def test_head_opens_no_stream(client: httpx.Client, name: str) -> None:
    answered = client.head(f"/counters/{name}/events")
    assert (answered.status_code, answered.headers["content-type"]) == (200, "text/event-stream")


def test_two_hundred_watchers_of_two_counters_are_read_by_one_query(
    client: httpx.Client, shared: Database, name: str
) -> None:
    other = f"o-{uuid.uuid4().hex}"
    client.put(f"/counters/{other}").raise_for_status()
    with ExitStack() as stack:
        streams = [(one, stack.enter_context(watch(client, one))) for one in [name, other] * 100]
        assert [next(parts) for _, parts in streams] == [event(one, 0) for one, _ in streams]
        with statements(shared) as made:
            for one in name, other:
                hit(client, one)
            assert [next(parts) for _, parts in streams] == [event(one, 1) for one, _ in streams]
    assert made
    assert [text for text in made if name not in text or other not in text] == []


def test_what_nobody_watches_any_more_is_not_read(client: httpx.Client, shared: Database, name: str) -> None:
    left = f"l-{uuid.uuid4().hex}"
    client.put(f"/counters/{left}").raise_for_status()
    with watch(client, left) as parts:
        next(parts)
    with watch(client, name) as parts:
        for value in range(3):
            assert next(parts) == event(name, value)
            hit(client, name)
        with statements(shared) as made:
            assert next(parts) == event(name, 3)
            hit(client, name)
            assert next(parts) == event(name, 4)
    assert made
    assert [text for text in made if left in text] == []


def test_more_watchers_than_are_allowed_are_refused_until_one_leaves(client: httpx.Client, name: str) -> None:
    with ExitStack() as stack:
        last = ExitStack()
        for number in range(LARGEST):
            next((last if number == 0 else stack).enter_context(watch(client, name)))
        refused = client.get(f"/counters/{name}/events", headers=EVENTS)
        assert problem(refused) == (503, "too-many-watchers")
        assert refused.headers["retry-after"] == "1"
        last.close()

        def is_free() -> bool:
            with client.stream("GET", f"/counters/{name}/events", headers=EVENTS) as answered:
                return answered.status_code == 200

        wait_until(is_free)


def status_of_events(client: httpx.Client, name: str) -> int:
    with client.stream("GET", f"/counters/{name}/events", headers=EVENTS) as answer:
        return answer.status_code


def test_streams_outlive_the_loss_of_the_database(
    client: httpx.Client, service: Hypercorn, shared: Database, name: str
) -> None:
    with watch(client, name) as parts:
        assert next(parts) == event(name, 0)
        shared.execute("RENAME TABLE counter TO elsewhere")
        # Nobody is shown what may be old.
        wait_until(lambda: {status_of_events(client, one) for one in (name, "page")} == {503})
        assert service.logged("what is watched cannot be read")
        shared.execute("RENAME TABLE elsewhere TO counter")
        hit(client, name)
        assert next(parts) == event(name, 1)
