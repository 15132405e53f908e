"""The values of counters as they change, for any number of watchers of this worker.

One task reads all counters that are watched, by one query an interval, and only while somebody watches. A watcher keeps
no queue: it is told that there is something new, and takes the newest value whenever its client is ready. So what a
stream shows is never more than what the database has, and never goes back.
"""

import asyncio
import logging
import math
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakSet

import msgspec
from quart import Blueprint, Response, current_app, request

from service.counter import access, queries
from service.counter.errors import NoSuchCounter, TooManyWatchers
from service.counter.names import check_name
from service.counter.settings import CounterSettings
from service.platform.app import App
from service.platform.database import OutcomeUnknown, Unavailable
from service.platform.event_stream import Event, NextEvent, event_stream, in_turn

NOTHING = -1
"""What a client has seen that has seen no value."""

log = logging.getLogger(__name__)

blueprint = Blueprint("watching", __name__, url_prefix="/counters")


class Reading(NamedTuple):
    """A counter as the database had it; `read_at` is when it was asked, by the event loop's clock."""

    id: int
    value: int
    is_private: bool
    read_at: float

    def is_of_another(self, other: "Reading") -> bool:
        """Whether the counter was made again between the two, or made private or open."""
        return (self.id, self.is_private) != (other.id, other.is_private)


@dataclass(eq=False)
class _Watched:
    """A counter that is watched; `newest` is None when it was deleted. Each watcher has an event for what is new."""

    newest: Reading | None
    watchers: set[asyncio.Event] = field(default_factory=set)


class Watching:
    """All that is watched in this worker. `interval` is in seconds; `largest` is the number of watchers."""

    def __init__(self, interval: float, largest: int) -> None:
        self._interval = interval
        self._largest = largest
        self._watched: dict[str, _Watched] = {}
        self._asked: dict[str, asyncio.Future[Reading | Exception | None]] = {}
        self._wake = asyncio.Event()
        self._watchers: WeakSet[asyncio.Event] = WeakSet()

    @contextmanager
    def admit(self) -> Iterator[asyncio.Event]:
        """Lends a new watcher, which `watch` takes over. Raises TooManyWatchers.

        It counts until its stream ends or, where that never begins, until nothing refers to it any longer.
        """
        if len(self._watchers) >= self._largest:
            raise TooManyWatchers(self._largest)
        watcher = asyncio.Event()
        self._watchers.add(watcher)
        try:
            yield watcher
        except BaseException:
            self._watchers.discard(watcher)
            raise

    async def first(self, name: str, seen: int) -> Reading:
        """Returns the counter as it was read at most an interval ago, or reads it now, also where more was seen of it.

        A private one is always read now, so that how long it takes does not say that it is watched. Whoever asks
        meanwhile shares the query. Raises NoSuchCounter, Unavailable.
        """
        watched = self._watched.get(name)
        known = None if watched is None else watched.newest
        oldest = asyncio.get_running_loop().time() - self._interval
        if known is not None and not known.is_private and known.value >= seen and known.read_at >= oldest:
            return known
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
    def watch(
        self, name: str, first: Reading, seen: int, changed: asyncio.Event, lasts: float = math.inf
    ) -> Iterator[NextEvent]:
        """Lends a function that waits for the next value of the counter that is above `seen`, for `lasts` seconds.

        A stream may begin long after `first` was read. Where the counter was made again, private or open since, the
        stream only says that its counter is over.
        """
        watched = self._watched.setdefault(name, _Watched(first))
        if watched.newest is not None and watched.newest.is_of_another(first):
            watched = _Watched(None)
        changed.set()
        watched.watchers.add(changed)
        self._wake.set()
        is_over = False
        now = asyncio.get_running_loop().time
        end = now() + lasts

        async def next_event() -> Event | None:
            nonlocal seen, is_over
            while not is_over and now() < end:
                await changed.wait()
                changed.clear()
                if watched.newest is None:
                    is_over = True
                    return Event(_json(counter=name), name="deleted")
                if watched.newest.value > seen:
                    seen = watched.newest.value
                    return Event(_json(counter=name, value=seen), id=str(seen))
            return None

        try:
            yield next_event
        finally:
            self._watchers.discard(changed)
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
                async for watcher in in_turn(self._take(names, found)):
                    watcher.set()
            if is_due:
                due = loop.time() + self._interval

    async def _read(self, names: Iterable[str]) -> dict[str, Reading] | Exception:
        now = asyncio.get_running_loop().time()
        try:
            rows = await queries.values_of(names)
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("what is watched cannot be read, and is tried again: %s", error)
            return Unavailable(str(error))
        except Exception as error:
            log.exception("what is watched cannot be read")
            return error
        return {row.name: Reading(row.id, row.value, row.is_private, now) for row in rows}

    def _take(self, names: Iterable[str], found: dict[str, Reading]) -> list[asyncio.Event]:
        """Takes what was found, and returns the watchers of what is new."""
        watchers: list[asyncio.Event] = []
        for name in names:
            watched, newest = self._watched.get(name), found.get(name)
            if watched is None or watched.newest is None:
                continue
            former = watched.newest
            if newest is None or newest.value < former.value or newest.is_of_another(former):
                # It was deleted, and perhaps made again, or made private, or a backup was restored.
                newest = None
                del self._watched[name]
            watched.newest = newest
            if newest is None or newest.value != former.value:
                watchers += watched.watchers
        return watchers


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
    check_name(name)
    app: App = current_app  # type: ignore[assignment]
    watching: Watching = app.extensions["watching"]
    with watching.admit() as watcher:
        seen = _seen()
        found = None
        with suppress(NoSuchCounter):
            found = await watching.first(name, seen)
        first = await access.allowed(name, found)
        if first.value < seen:
            seen = NOTHING  # it was of another counter of the name, or before a backup was restored
        # A token may be revoked: who comes back is asked for it again.
        lasts = app.settings.event_heartbeat if first.is_private and "Authorization" in request.headers else math.inf
        return event_stream(watching.watch(name, first, seen, watcher, lasts))


def _seen() -> int:
    """Returns the value that the client saw last: its Last-Event-ID, where this can be one of a counter's."""
    last = request.headers.get("Last-Event-ID", "")
    return int(last) if re.fullmatch("[0-9]{1,16}", last) else NOTHING


def _json(**values: str | int) -> str:
    return msgspec.json.encode(values).decode()
