"""The database driver, aiomysql, with the time-outs that it lacks. Nothing else in the service imports it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar

import aiomysql
from aiomysql import Cursor, MySQLError, OperationalError
from pymysql.constants import CLIENT

from service.platform import tls
from service.platform.mysql_errors import CR_SERVER_LOST, CR_SSL_CONNECTION_ERROR
from service.platform.settings import DatabaseSettings

__all__ = ["URL_SCHEME", "Connection", "Cursor", "MySQLError", "OperationalError", "connect", "is_ended_by_server"]

URL_SCHEME = "mysql+aiomysql"
"""Of SQLAlchemy's URLs."""

_T = TypeVar("_T")


class Connection(aiomysql.Connection):  # type: ignore[misc]  # aiomysql has no types
    """aiomysql's connection with a time-out for each statement.

    Under uvloop, writing to a connection that the server has closed raises a plain RuntimeError
    (aio-libs/aiomysql#966), which SQLAlchemy does not take for a disconnect: it becomes OperationalError 2013.
    Bytes are escaped here, since aiomysql 0.3 relies on a function that PyMySQL 1.2 has not.
    """

    def __init__(self, *, settings: DatabaseSettings, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._statement_timeout = settings.statement_timeout

    def escape(self, obj: Any) -> str:
        return f"_binary X'{obj.hex()}'" if isinstance(obj, bytes) else str(super().escape(obj))

    async def _get_server_information(self) -> None:
        """Reads the server's greeting. aiomysql would do without TLS where the server, or who is between, has none."""
        await super()._get_server_information()
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            raise aiomysql.OperationalError(CR_SSL_CONNECTION_ERROR, "no TLS: the server offers none")

    async def query(self, sql: str, unbuffered: bool = False) -> int:
        return await self._bounded(super().query(sql, unbuffered))

    async def commit(self) -> None:
        await self._bounded(super().commit())

    async def rollback(self) -> None:
        await self._bounded(super().rollback())

    async def ping(self, reconnect: bool = True) -> None:
        await self._bounded(super().ping(reconnect))

    async def ensure_closed(self) -> None:
        """Sends COM_QUIT and closes; aiomysql leaves a connection open that can no longer be written to."""
        try:
            with contextlib.suppress(OSError, RuntimeError):
                await super().ensure_closed()
        finally:
            self.close()

    async def _bounded(self, command: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._statement_timeout):
                return await command
        except TimeoutError:
            # aiomysql has closed the connection, as it does on every cancellation: no later user reads this answer.
            raise aiomysql.OperationalError(CR_SERVER_LOST, f"no answer within {self._statement_timeout:g} s") from None
        except RuntimeError as error:
            raise aiomysql.OperationalError(CR_SERVER_LOST, f"connection lost ({error})") from error


async def connect(*, settings: DatabaseSettings, **arguments: Any) -> "Connection":
    """Returns a connection after its login; `arguments` are aiomysql's. Raises OperationalError.

    aiomysql's own connect_timeout covers the TCP handshake only; during the login it looks like a broken packet
    (aio-libs/aiomysql#988).
    """
    connection = Connection(**arguments, settings=settings)
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await connection._connect()
    except TimeoutError:
        connection.close()
        raise aiomysql.OperationalError(
            CR_SERVER_LOST, f"no connection to the database within {settings.connect_timeout:g} s"
        ) from None
    except aiomysql.OperationalError as error:
        if reason := tls.reason(error):
            raise aiomysql.OperationalError(CR_SSL_CONNECTION_ERROR, f"no TLS: {reason}") from error
        raise
    _bound_silence(connection, settings)
    return connection


def is_ended_by_server(connection: Connection) -> bool:
    """Whether the server has closed the connection, as far as the client can tell without a round trip.

    at_eof() is what aiomysql's own pool asks; a connection that was reset has an exception instead.
    """
    reader = connection._reader
    return bool(reader.at_eof()) or reader.exception() is not None


def _bound_silence(connection: aiomysql.Connection, settings: DatabaseSettings) -> None:
    """Makes the kernel close a connection whose packets are not acknowledged (Linux: tcp(7))."""
    if sys.platform == "linux":
        tcp: socket.socket = connection._writer.transport.get_extra_info("socket")
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(settings.statement_timeout * 1000))
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
