"""Reads binary logs of MySQL and MariaDB by their events' headers: which transaction begins where, and when.

The library python-mysql-replication reads from a server only, not from files, and decodes each row. What is needed here
is in each event's first bytes:
https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from deploy.backup.errors import Refused

MAGIC = b"\xfebin"
_HEADER = struct.Struct("<IBIIIH")  # time, type, server id, length, next position, flags
_QUERY_HEADER = struct.Struct(
    "<IIBHH"
)  # thread, seconds, length of the database's name, error, length of the variables
_QUERY, _FORMAT_DESCRIPTION = 2, 15
_GTID, _ANONYMOUS_GTID, _TAGGED_GTID, _MARIADB_GTID = 33, 34, 42, 162
_BEGIN_A_TRANSACTION = {_GTID, _ANONYMOUS_GTID, _TAGGED_GTID, _MARIADB_GTID}
_COMMITTED = slice(42, 49)
"""In the body of MySQL's GTID event: the microseconds since 1970 of the commit, but for the highest bit."""


@dataclass(frozen=True)
class Transaction:
    """Where a transaction begins, and when it was committed: MariaDB's log has whole seconds.

    `statement` is that of a change of the schema, None for all others.
    """

    position: int
    moment: datetime
    statement: str | None


def begins(file: BinaryIO) -> datetime:
    """Returns when the log was begun, in whole seconds. Raises Refused if it is no binary log."""
    for time, _, _, _ in _events(file):
        return _moment(time)
    raise Refused("It is no binary log.")


def transactions(file: BinaryIO) -> Iterator[Transaction]:
    """Yields the log's transactions, in their order. Raises Refused if it ends in the middle of an event."""
    checksum = 0
    begun: Transaction | None = None
    for time, kind, position, body in _events(file):
        if kind == _FORMAT_DESCRIPTION:
            checksum = 4 if body[-5] else 0  # bytes at the end of each event
        elif begun is not None:
            statement = _statement(body[: len(body) - checksum]) if kind == _QUERY else None
            yield Transaction(begun.position, begun.moment, statement)
            begun = None
        if kind in _BEGIN_A_TRANSACTION:
            begun = Transaction(position, _committed(body) if kind in (_GTID, _ANONYMOUS_GTID) else _moment(time), None)


def _events(file: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields time, type, position and body of each event."""
    if file.read(len(MAGIC)) != MAGIC:
        raise Refused("It is no binary log.")
    position = len(MAGIC)
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise Refused(f"The binary log ends within an event, at {position}.")
        time, kind, _, length, _, _ = _HEADER.unpack(header)
        body = file.read(length - _HEADER.size)
        if length < _HEADER.size or len(body) < length - _HEADER.size:
            raise Refused(f"The binary log ends within an event, at {position}.")
        yield time, kind, position, body
        position += length


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _committed(body: bytes) -> datetime:
    microseconds = int.from_bytes(body[_COMMITTED], "little") & (1 << 55) - 1
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def _statement(body: bytes) -> str | None:
    _, _, database, _, variables = _QUERY_HEADER.unpack_from(body)
    text = body[_QUERY_HEADER.size + variables + database + 1 :].decode(errors="replace")
    return None if text == "BEGIN" else " ".join(text.split())
