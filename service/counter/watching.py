"""The values of counters as they change, for any number of watchers of this worker.

One task reads all counters that are watched, by one query an interval, and only while somebody watches. A watcher keeps
no queue: it is told that there is something new, and takes the newest value whenever its client is ready. So what a
stream shows is never more than what the database has, and never goes back.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from quart import Blueprint, Response, current_app, request

from service.counter import access, queries
from service.counter.errors import NoSuchCounter, TooManyWatchers
from service.counter.names import check_name
from service.counter.settings import CounterSettings
from service.platform.app import App
from service.platform.database import OutcomeUnknown, Unavailable
from service.platform.event_stream import Event, NextEvent, event_stream, in_turn

log = logging.getLogger(__name__)

blueprint = Blueprint("watching", __name__, url_prefix="/counters")


class Reading(NamedTuple):
    """A counter as the database had it."""

    id: int
    value: int
    is_private: bool


@dataclass(eq=False)
class _Watched:
    """A counter that is watched; `newest` is None when it was deleted. Each watcher has an event for what is new."""

    newest: Reading | None
    watchers: set[asyncio.Event] = field(default_factory=set)

    async def show(self, newest: Reading | None) -> None:
        """Tells the watchers, one after the other."""
        if newest == self.newest:
            return
        self.newest = newest
        async for watcher in in_turn(list(self.watchers)):
            watcher.set()


class Watching:
    """All that is watched in this worker. `interval` is in seconds; `largest` is the number of watchers."""

    def __init__(self, interval: float, largest: int) -> None:
        self._interval = interval
        self._largest = largest
        self._watched: dict[str, _Watched] = {}
        self._asked: dict[str, asyncio.Future[Reading | Exception | None]] = {}
        self._wake = asyncio.Event()
        self._is_failing = False
        self.watchers = 0

    async def first(self, name: str) -> Reading:
        """Returns the counter as it was read last, at most an interval ago. Whoever asks meanwhile shares the query.

        Raises NoSuchCounter, TooManyWatchers, Unavailable.
        """
        if self.watchers >= self._largest:
            raise TooManyWatchers(self._largest)
        if (watched := self._watched.get(name)) is not None and watched.newest is not None:
            return watched.newest
        if name not in self._asked:
            self._asked[name] = asyncio.get_running_loop().create_future()
            self._wake.set()
        found = await asyncio.shield(self._asked[name])
        if isinstance(found, Exception):
            raise found.with_traceback(None)
        if found is None:
            raise NoSuchCounter
        return found

    @contextmanager
    def watch(self, name: str, first: Reading, seen: str | None) -> Iterator[NextEvent]:
        """Lends a function that waits for the next value of the counter; `seen` is the id of the last event, if any."""
        watched = self._watched.setdefault(name, _Watched(first))
        changed = asyncio.Event()
        changed.set()
        watched.watchers.add(changed)
        self.watchers += 1
        self._wake.set()
        is_over = False

        async def next_event() -> Event | None:
            nonlocal seen, is_over
            while not is_over:
                await changed.wait()
                changed.clear()
                if watched.newest is None:
                    is_over = True
                    return Event(_json(counter=name), name="deleted")
                value = str(watched.newest.value)
                if value != seen:
                    seen = value
                    return Event(_json(counter=name, value=watched.newest.value), id=value)
            return None

        try:
            yield next_event
        finally:
            self.watchers -= 1
            watched.watchers.discard(changed)
            if not watched.watchers and self._watched.get(name) is watched:
                del self._watched[name]

    async def read_and_show(self) -> None:
        """Reads what is asked for at once, and what is watched once an interval, until it is cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(due if self._watched else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            is_due = loop.time() >= due
            asked, self._asked = self._asked, {}
            names = {*asked, *(self._watched if is_due else ())}
            if not names:
                continue
            found = await self._read(names)
            for name, waiting in asked.items():
                waiting.set_result(found if isinstance(found, Exception) else found.get(name))
            if not isinstance(found, Exception):
                await self._show(names, found)
            if is_due:
                due = loop.time() + self._interval

    async def _read(self, names: Iterable[str]) -> dict[str, Reading] | Exception:
        try:
            rows = await queries.values_of(names)
        except (Unavailable, OutcomeUnknown) as error:
            if not self._is_failing:
                log.warning("what is watched cannot be read, and is tried again: %s", error)
            self._is_failing = True
            return Unavailable(str(error))
        except Exception as error:
            log.exception("what is watched cannot be read")
            return error
        self._is_failing = False
        return {row.name: Reading(row.id, row.value, row.is_private) for row in rows}

    async def _show(self, names: Iterable[str], found: dict[str, Reading]) -> None:
        for name in names:
            watched, newest = self._watched.get(name), found.get(name)
            if watched is None or watched.newest is None:
                continue
            former = watched.newest
            if newest is None or newest.value < former.value or newest._replace(value=former.value) != former:
                # It was deleted, and perhaps made again, or made private, or a backup was restored.
                newest = None
                del self._watched[name]
            await watched.show(newest)


def register(app: App, settings: CounterSettings) -> None:
    """Adds the route, and reads what is watched while the worker serves."""
    app.register_blueprint(blueprint)

    @app.while_serving
    async def watch() -> AsyncGenerator[None]:
        watching = app.extensions["watching"] = Watching(settings.watch_interval, settings.max_watchers)
        reading = asyncio.create_task(watching.read_and_show())
        yield
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@blueprint.get("/<name>/events")
async def events(name: str) -> Response:
    """The counter's value, and each that follows, as server-sent events."""
    watching: Watching = current_app.extensions["watching"]
    first = await watching.first(check_name(name))
    await access.check(name, is_private=first.is_private)
    return event_stream(watching.watch(name, first, request.headers.get("Last-Event-ID")))


def _json(**values: str | int) -> str:
    return msgspec.json.encode(values).decode()
