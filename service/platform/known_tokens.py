"""The valid tokens of the database, as this worker knows them: no request costs a query of its own.

All are read together, at most once in INTERVAL and only while requests with a token come, which share the reading: a
flood of unknown tokens is one query a second. So

- a token that was made is known INTERVAL later;
- one that was revoked is refused FRESH later at the latest, and KEPT later where the database does not answer;
- one that is not known while the database does not answer is Unavailable, never unknown.

A token has 256 random bits, of which the SHA-256 is looked up in a dict. Slow hashes are for passwords, which can be
guessed; and how long a comparison takes says something about a hash, of which nobody can choose the first bytes.
"""

import asyncio
import contextlib
import logging
import math
from dataclasses import dataclass

from quart import current_app

from service.platform.database import OutcomeUnknown, Unavailable, transaction
from service.platform.token_file import Token
from service.platform.token_table import USED, VALID

INTERVAL = 1.0
"""Seconds between the begins of two readings at the least."""

FRESH = 5.0
"""Seconds after which a token that is known is no longer taken without a reading."""

KEPT = 60.0
"""Seconds for which a token that is known is taken while the database does not answer."""

TIMEOUT = 1.0
"""Seconds for which a request waits for a reading."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """A valid token; `end` is by the event loop's clock."""

    id: int
    token: Token
    end: float
    used_today: bool


class KnownTokens:
    """A worker's knowledge. Its clock is the event loop's; a reading counts from its begin."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._read_at = self._asked_at = -math.inf
        self._read = asyncio.Event()
        self._read.set()
        self._used: set[int] = set()
        """Tokens whose last use is being written; empty where nobody writes."""

    async def find(self, hashed: str) -> Token | None:
        """Returns the valid token of this SHA-256, None if there is none. Raises Unavailable if that is not known."""
        now = asyncio.get_running_loop().time()
        if self._read.is_set() and now >= self._asked_at + INTERVAL:
            self._asked_at = now
            self._read.clear()
            current_app.add_background_task(self._read_all)
        asked_at = self._asked_at
        known = self._valid(hashed)
        if known is None or now >= self._read_at + FRESH:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    await self._read.wait()
            known = self._valid(hashed)
        if self._read_at < (asked_at if known is None else now - KEPT):
            raise Unavailable("the tokens could not be read")
        if known is None:
            return None
        self._note_use(known)
        return known.token

    def _valid(self, hashed: str) -> _Known | None:
        known = self._known.get(hashed)
        return known if known is not None and asyncio.get_running_loop().time() < known.end else None

    async def _read_all(self) -> None:
        began = self._asked_at
        try:
            async with transaction() as connection:
                rows = (await connection.execute(VALID)).all()
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("the tokens could not be read: %s", error)
        else:
            self._known = {
                row.hash.hex(): _Known(
                    row.id,
                    Token(row.name, frozenset(row.scopes.split(","))),
                    math.inf if row.microseconds_left is None else began + row.microseconds_left / 1e6,
                    bool(row.used_today),
                )
                for row in rows
            }
            self._read_at = began
        finally:
            self._read.set()

    def _note_use(self, known: _Known) -> None:
        """Has the day of the use written, outside of the request and once a day."""
        if known.used_today:
            return
        known.used_today = True
        if not self._used:
            current_app.add_background_task(self._write_uses)
        self._used.add(known.id)

    async def _write_uses(self) -> None:
        """Writes until nothing is left. What fails is tried again at a use after the next reading."""
        try:
            while self._used:
                ids = self._used.copy()
                async with transaction() as connection:
                    await connection.execute(USED, {"ids": sorted(ids)})
                self._used -= ids
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("the day of the tokens' last use could not be written: %s", error)
        finally:
            self._used.clear()
