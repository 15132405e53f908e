"""The lanes' own database connections, and every statement that a lane executes.

A new connection takes a lock under a unique name on the server. A lost connection is killed by that name, so that none
of its statements can still take effect; connection ids will not do, since a restarted server uses them again.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from sqlalchemy import event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.counter.batch import Plan, Receipt
from service.counter.tables import LARGEST
from service.platform import driver
from service.platform.database import create_engine
from service.platform.mysql_errors import (
    CONNECTION_ENDED,
    CR_ERROR_FIRST,
    CR_ERROR_LAST,
    ER_DATA_OUT_OF_RANGE,
    ER_NO_SUCH_THREAD,
    is_read_only,
)
from service.platform.settings import DatabaseSettings

# UPDATE, receipts and COMMIT go in one packet, so that the row is locked for no round trip. LAST_INSERT_ID(expr) makes
# the new count the UPDATE's lastrowid, and hands it to the INSERT:
# https://dev.mysql.com/doc/refman/9.7/en/information-functions.html#function_last-insert-id
# Where the UPDATE matches no row it leaves the former one, so that is made 0 first: 0 - n is out of range (the numbers
# are unsigned), and the server stops before the COMMIT.
_COUNT = """DO LAST_INSERT_ID(0);
UPDATE counter SET count = LAST_INSERT_ID(count + {total}) WHERE id = {id} AND count + {total} <= {largest};
INSERT INTO receipt (`key`, counter_id, first, last, created_at) VALUES {receipts};
COMMIT"""
_RECEIPT = "(x'{key}',{id},LAST_INSERT_ID()-{total}+{first},LAST_INSERT_ID()-{total}+{last},UTC_TIMESTAMP(6))"

_FIND = "SELECT id FROM counter WHERE name = %s"
_CREATE = "INSERT IGNORE INTO counter (name, count) VALUES (%s, 0)"
_LOCK = "SELECT count FROM counter WHERE id = %s FOR UPDATE"
# A deleted counter may have left receipts, which say nothing any longer.
LOOK_UP = """SELECT `key`, first, last FROM receipt
WHERE `key` IN ({keys}) AND EXISTS (SELECT * FROM counter WHERE id = {id})"""
TRIES = [
    text("SELECT GET_LOCK('tally:readiness', 0), IS_USED_LOCK('tally:readiness')"),
    text("UPDATE counter SET count = LAST_INSERT_ID(count + 1) WHERE id = 0"),
    text(
        "INSERT INTO receipt (`key`, counter_id, first, last, created_at) "
        "SELECT UNHEX(REPLACE(UUID(), '-', '')), id, 1, 1, UTC_TIMESTAMP(6) FROM counter WHERE id = 0"
    ),
]
"""What readiness tries of the statements above. No counter has the id 0, so that they change and lock no row: one that
is left open would keep the roll-up and a deletion waiting."""


class Times(NamedTuple):
    """When a transaction came to the row's lock and when it was committed, by time.perf_counter(), as answers came."""

    at_lock: float
    committed: float


class ConnectionLost(Exception):
    """The connection was lost; whether its last statement took effect is not known."""


class StatementRefused(Exception):
    """The server refused a statement, which had no effect. `code` is the error number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"error {code}: {text}")
        self.code = code


class NotConnected(Exception):
    """No connection could be opened; nothing was executed."""


class _Idle(NamedTuple):
    """A connection that nobody uses since that time (time.monotonic())."""

    pooled: AsyncConnection
    raw: Any
    since: float


class LaneConnections:
    """A worker's connections for its lanes, at most `size`. Waiters are served first in, first out.

    They come from a pool of SQLAlchemy's, and are kept out of it: to give one back and to get it again takes 50 us.
    A hit alone takes 700.
    """

    def __init__(self, settings: DatabaseSettings, size: int) -> None:
        self.size = size
        self.spare = size
        """How many connections nobody has or waits for; below 0, how many wait."""
        self._settings = settings
        self._turns = asyncio.Semaphore(size)
        self._idle: list[_Idle] = []
        self._engine: AsyncEngine = create_engine(settings, pool_size=size, check=False)
        event.listen(self._engine.sync_engine, "connect", _take_name)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["LaneConnection"]:
        """Lends a connection, and rolls back what the block has not committed. Raises NotConnected."""
        self.spare -= 1
        try:
            async with self._turns:
                try:
                    pooled, connection = await self._connect()
                except (exc.SQLAlchemyError, OSError, RuntimeError) as error:
                    raise NotConnected(str(getattr(error, "orig", error))) from error
                try:
                    yield connection
                finally:
                    await self._take_back(pooled, connection)
        finally:
            self.spare += 1

    async def close(self) -> None:
        """Closes the connections. Nobody has one any longer."""
        while self._idle:
            await self._idle.pop().pooled.close()
        await self._engine.dispose()

    async def _connect(self) -> tuple[AsyncConnection, "LaneConnection"]:
        """Returns a connection that the server has not closed, as far as the client can tell without a round trip."""
        while True:
            if self._idle:
                pooled, raw, since = self._idle.pop()
                if time.monotonic() - since > self._settings.idle_timeout / 2:
                    await pooled.close()  # the pool makes a new one in its stead
                    continue
            else:
                pooled = await self._engine.connect()
                raw = await _raw(pooled)
            if not driver.is_ended_by_server(raw):
                return pooled, LaneConnection(raw, pooled.info["name"], self._settings.statement_timeout)
            await _end(pooled)

    async def _take_back(self, pooled: AsyncConnection, connection: "LaneConnection") -> None:
        try:
            await connection.roll_back()
        except (ConnectionLost, StatementRefused):  # its next user must not find a transaction open
            connection.is_lost = True
        finally:
            if connection.is_lost or connection.is_read_only:
                await _end(pooled)
            else:
                self._idle.append(_Idle(pooled, connection.raw, time.monotonic()))


class LaneConnection:
    """A connection as a lane uses it. Each method but `count` leaves a transaction open, which `count` commits."""

    def __init__(self, connection: driver.Connection, name: str, timeout: float) -> None:
        self.name = name
        self.is_lost = False
        self.is_read_only = False
        """Whether the server takes no writes. After a failover another one does, which a new connection may reach."""
        self.times: Times | None = None
        """When the last `count` that succeeded came to the lock and was committed, in seconds."""
        self.may_have_counted = False
        """Whether it may have counted: it sent the statements, and the server did not refuse them."""
        self.raw = connection
        self._in_transaction = False
        self._timeout = timeout

    async def find(self, name: str) -> int | None:
        """Returns the id of the counter of that name."""
        rows = await self._run(_FIND, (name,))
        return rows[0][0] if rows else None

    async def create(self, name: str) -> None:
        """Creates the counter at 0 unless it exists, and commits."""
        await self._run(_CREATE + ";COMMIT", (name,))

    async def lock(self, counter_id: int) -> int | None:
        """Locks the counter's row until the transaction ends; returns its count, None if the row does not exist."""
        rows = await self._run(_LOCK, (counter_id,))
        return rows[0][0] if rows else None

    async def look_up(self, counter_id: int, keys: Sequence[bytes]) -> dict[bytes, Receipt]:
        """Returns the receipts with these keys that exist, none if the counter does not."""
        # In hexadecimal, as in `count`: the server shows statements to administrators as text.
        rows = await self._run(LOOK_UP.format(id=counter_id, keys=",".join(f"x'{key.hex()}'" for key in keys)))
        return {key: Receipt(key, first, last) for key, first, last in rows}

    async def count(self, counter_id: int, plan: Plan) -> int | None:
        """Adds the plan's total, writes its receipts and commits; returns the counter's new count.

        Returns None, and has no effect, if the counter does not exist or would exceed its largest number.
        """
        receipts = ",".join(
            _RECEIPT.format(key=one.key.hex(), id=counter_id, total=plan.total, first=one.first, last=one.last)
            for one in plan.receipts
        )
        self.may_have_counted = True
        try:
            answers = await self._run_all(
                _COUNT.format(id=counter_id, total=plan.total, largest=LARGEST, receipts=receipts)
            )
        except StatementRefused as error:
            self.may_have_counted = False
            if error.code != ER_DATA_OUT_OF_RANGE:
                raise
            return None
        self._in_transaction = False
        (_, at_lock), (count, _), _, (_, committed) = answers
        self.times = Times(at_lock, committed)
        return count

    async def kill(self, name: str) -> None:
        """Kills the connection of that name if it is open: its later statements fail, and its locks are released."""
        ((connection_id,),) = await self._run("SELECT IS_USED_LOCK(%s)", (name,))
        if connection_id is not None:
            try:
                await self._run(f"KILL {connection_id:d}")
            except StatementRefused as error:
                if error.code != ER_NO_SUCH_THREAD:
                    raise

    async def roll_back(self) -> None:
        """Rolls back the transaction, if any. The server itself rolls back that of a lost connection."""
        if self._in_transaction and not self.is_lost:
            await self._run("ROLLBACK")
            self._in_transaction = False

    async def _run(self, sql: str, parameters: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        async with self._exchange() as cursor:
            await cursor.execute(sql, parameters)
            rows = list(await cursor.fetchall() or ())
            while await cursor.nextset():
                pass
        return rows

    async def _run_all(self, sql: str) -> list[tuple[int, float]]:
        """Executes statements that end with COMMIT; returns the last insert id of each, and when its answer came."""
        answers: list[tuple[int, float]] = []
        try:
            async with self._exchange() as cursor:
                await cursor.execute(sql)
                answers.append((cursor.lastrowid, time.perf_counter()))
                while await cursor.nextset():
                    answers.append((cursor.lastrowid, time.perf_counter()))
        except StatementRefused as error:
            if len(answers) == sql.count(";"):
                self.is_lost = True
                raise ConnectionLost(f"the commit was answered with {error}") from error
            raise
        return answers

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[driver.Cursor]:
        self._in_transaction = True
        try:
            async with asyncio.timeout(self._timeout):
                yield driver.Cursor(self.raw)
        except (driver.MySQLError, OSError, RuntimeError, EOFError) as error:
            code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
            by_server = isinstance(error, driver.MySQLError) and code and not CR_ERROR_FIRST <= code <= CR_ERROR_LAST
            if by_server and code not in CONNECTION_ENDED:
                self.is_read_only = self.is_read_only or is_read_only(error)
                raise StatementRefused(code, str(error.args[-1])) from error
            self.is_lost = True
            raise ConnectionLost(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.is_lost = True
            raise


async def _raw(pooled: AsyncConnection) -> Any:
    """Returns the driver's connection."""
    try:
        return (await pooled.get_raw_connection()).driver_connection
    except BaseException:
        await pooled.close()
        raise


async def _end(pooled: AsyncConnection) -> None:
    """Closes the connection to the server, and gives its place in the pool back."""
    try:
        await pooled.invalidate()
    finally:
        await pooled.close()


def _take_name(connection: Any, record: Any) -> None:
    """Takes a lock on the server whose name is the connection's; the server releases it with the connection."""
    record.info["name"] = f"tally:{uuid.uuid4()}"
    cursor = connection.cursor()
    cursor.execute("SELECT GET_LOCK(%s, 0)", (record.info["name"],))
    (taken,) = cursor.fetchone()
    cursor.close()
    if taken != 1:
        raise driver.OperationalError(0, "GET_LOCK, by which a lost connection is found, does not work on this server")
