"""The options of counters whose views count, as this worker knows them: FRESH seconds old at most.

An ordinary hit, by a token that counts, needs none of them. They are read by a statement for each counter that is asked
for, at most once in FRESH seconds; requests that ask meanwhile share it.
"""

import asyncio
from dataclasses import dataclass

from quart import current_app

from service.counter import queries
from service.counter.errors import ImagesDoNotCount, NoSuchCounter, TooManyImages
from service.counter.lane import LimitedDict
from service.counter.models import Counter

FRESH = 5.0
"""Seconds for which what was read is taken."""

MINUTE = 60.0


@dataclass(slots=True)
class _Known:
    """Times are by the event loop's clock."""

    reading: asyncio.Future[Counter | None]
    read_at: float


@dataclass(slots=True)
class Minute:
    """In which so many images of a counter have counted or may yet. Its begin is by the event loop's clock."""

    begun_at: float
    images: int = 0


class Options:
    """A worker's knowledge, and how many images it has counted in this minute."""

    def __init__(self) -> None:
        self._known = LimitedDict[_Known]()
        self._minutes = LimitedDict[Minute]()

    async def of(self, name: str) -> Counter:
        """Returns the counter, whose value may be old. Raises NoSuchCounter and Unavailable."""
        now = asyncio.get_running_loop().time()
        known = self._known.get(name)
        if known is None or now >= known.read_at + FRESH:
            known = self._known[name] = _Known(asyncio.ensure_future(queries.read(name)), now)
        try:
            found = await asyncio.shield(known.reading)
        except Exception:
            if self._known.get(name) is known:
                del self._known[name]
            raise
        if found is None:
            raise NoSuchCounter
        return found

    async def with_images(self, name: str) -> Counter:
        """Returns the counter where its images count: of a private one nobody may load any.

        Raises ImagesDoNotCount besides what `of` raises.
        """
        found = await self.of(name)
        if found.private:
            raise NoSuchCounter
        if not found.image_hits:
            raise ImagesDoNotCount
        return found

    async def admit_image(self, name: str) -> tuple[Counter, Minute]:
        """Returns the counter where one more image may count now, and the minute in whose number it is.

        Raises TooManyImages besides what `with_images` raises.
        """
        found = await self.with_images(name)
        now = asyncio.get_running_loop().time()
        minute = self._minutes.get(name)
        if minute is None or now >= minute.begun_at + MINUTE:
            minute = self._minutes[name] = Minute(now)
        if minute.images >= found.image_hits:
            raise TooManyImages(minute.begun_at + MINUTE - now)
        minute.images += 1
        return found, minute


def options() -> Options:
    """Returns the worker's."""
    found: Options = current_app.extensions["options"]
    return found
