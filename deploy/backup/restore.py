"""The way back: chooses a backup and binary logs for a moment, unpacks them, and has a private server replay the logs.

The logs are given to that server as relay logs, which its replication thread carries out up to a position. It listens
on a socket in its data directory only, and writes no binary log of its own.
"""

import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pymysql

from deploy.backup import binary_log
from deploy.backup.errors import Refused
from deploy.backup.place import Backup, Check, Log, Place, Position, contiguous, size_of, unpacking
from deploy.backup.progress import count, megabytes, progress, say

SOCKET = "replay.sock"
RELAY_LOG = "replay"
PLAN = "replay.json"
ENDED = "replay.ended"
"""The file that whoever runs the server makes when it has ended."""
_ACCOUNTS = ("CREATE USER", "ALTER USER", "SET PASSWORD", "GRANT ", "REVOKE ")
"""Statements that are not shown: they have hashes of passwords, and come at each start of the server."""

_LIMIT = 300
"""Seconds in which a server has recovered its copy and listens, or has ended."""


class Plan(msgspec.Struct, frozen=True):
    """What is restored: a backup, and the logs after it, all or up to a position."""

    backup: Backup
    logs: list[Log]
    stop: Position | None


def plan(place: Place, name: str | None, to: datetime | Position | None) -> Plan:
    """Returns how to get there, by default to the end of what was copied. Raises Refused where that cannot be."""
    backups = place.backups()
    if name is not None:
        backups = [backup for backup in backups if backup.name == name]
        if not backups:
            raise Refused(f"There is no backup {name} in {place.directory}: --list shows those that there are.")
    if not backups:
        raise Refused(f"There is no backup in {place.directory}.")
    if to is None:
        return Plan(backups[-1], contiguous(place.logs(backups[-1].server), backups[-1].begin.number), None)
    if isinstance(to, Position):
        return _up_to_position(place, backups, to)
    return _up_to_moment(place, backups, to)


def _up_to_moment(place: Place, backups: list[Backup], to: datetime) -> Plan:
    before = [backup for backup in backups if backup.moment <= to]
    if not before:
        raise Refused(f"{to} is before the first backup, which has the data of {backups[0].moment}.")
    logs = contiguous(place.logs(before[-1].server), before[-1].begin.number)
    last = logs[-1].ends if logs else before[-1].moment
    if not logs or to > last:
        raise Refused(
            f"{to} is after {last}, up to which binary logs were copied: while the server lives, ./run backup --logs "
            "copies what is new; otherwise leave --to out."
        )
    logs = [log for log in logs if log.begins <= to]
    later = (one.position for one in _transactions(place, logs[-1]) if one.moment > to)
    stop = next(later, None)
    return Plan(before[-1], logs, None if stop is None else Position(logs[-1].name, stop))


def _up_to_position(place: Place, backups: list[Backup], to: Position) -> Plan:
    server = backups[-1].server
    before = [backup for backup in backups if backup.server == server and backup.end.order <= to.order]
    if not before:
        raise Refused(f"{to} is before the first backup, which has the data up to {backups[0].end}.")
    logs = [log for log in contiguous(place.logs(server), before[-1].begin.number) if log.number <= to.number]
    if not logs or logs[-1].name != to.log:
        raise Refused(f"{to} is in no binary log that was copied: --changes and --list show what there is.")
    if all(one.position != to.offset for one in _transactions(place, logs[-1])):
        raise Refused(f"No transaction begins at {to}: --changes shows where the schema was changed.")
    return Plan(before[-1], logs, to)


def _transactions(place: Place, log: Log) -> list[binary_log.Transaction]:
    with unpacking(place.path_of(log), log.data) as file:
        return list(binary_log.transactions(file))  # type: ignore[arg-type]


def changes(place: Place) -> list[tuple[datetime, Position, str]]:
    """Returns the changes of the schema in the logs of the newest backup's server: when, where, and the statement."""
    backups = place.backups()
    logs = place.logs(backups[-1].server) if backups else []
    return [
        (one.moment, Position(log.name, one.position), one.statement)
        for log in logs
        for one in _transactions(place, log)
        if one.statement is not None and not one.statement.upper().startswith(_ACCOUNTS)
    ]


def unpack(place: Place, chosen: Plan, into: Path, version: str) -> None:
    """Makes a data directory for a server of that version, with the logs that it is to replay. Raises Refused."""
    backup = chosen.backup
    if any(into.iterdir()):
        raise Refused(f"{into} is not empty: a restore never writes over data.")
    if _series(version) != _series(backup.version) or ("mariadb" in version.lower()) != (backup.product == "MariaDB"):
        raise Refused(
            f"The backup {backup.name} is of {backup.product} {backup.version}, and what is here is {version.strip()}: "
            "restore it with a server of that series, and upgrade that then."
        )
    needed = backup.data.unpacked + sum(log.data.unpacked for log in chosen.logs)
    free = shutil.disk_usage(into).free
    if needed > free:
        raise Refused(f"{into} has {megabytes(free)} free, and the data need {megabytes(needed)}: make room.")
    say(f"unpacking the backup {backup.name}, of {backup.moment:%Y-%m-%d %H:%M:%S}")
    names = {log.name: f"{RELAY_LOG}.{log.number:06}" for log in chosen.logs}
    with progress(needed, lambda: size_of(into)):
        with unpacking(place.data_of(backup), backup.data) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                _extract(archive, member, into)
        for log in chosen.logs:
            with unpacking(place.path_of(log), log.data) as file, (into / names[log.name]).open("wb") as relay_log:
                shutil.copyfileobj(file, relay_log, 1 << 20)
    (into / f"{RELAY_LOG}.index").write_text("".join(f"./{name}\n" for name in names.values()))
    (into / PLAN).write_bytes(msgspec.json.encode(chosen))


def _series(version: str) -> str:
    found = re.search(r"[0-9]+\.[0-9]+(?=\.)", version)
    return found[0] if found else ""


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """Writes one file or directory, within `into`; extract's filter is not in every Python 3.11."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise Refused(f"The backup holds {member.name}, which is no file of a database.")
    target = into / path
    if member.isdir():
        target.mkdir(mode=0o750, exist_ok=True)
        return
    content = archive.extractfile(member)
    assert content is not None
    with target.open("xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def replay(directory: Path) -> tuple[Backup, Check]:
    """Has the server in `directory` carry out the logs, reads each table, and ends it. Returns what there is then.

    Raises Refused.
    """
    chosen = msgspec.json.decode((directory / PLAN).read_bytes(), type=Plan)
    with _connection(directory) as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
        if chosen.logs:
            _replay(cursor, chosen, is_mariadb=chosen.backup.product == "MariaDB")
        check = _check(cursor)
        cursor.execute("SHUTDOWN")
    _wait((directory / ENDED).exists, "The private server does not end.")
    for left in directory.glob(f"{RELAY_LOG}*"):
        left.unlink()
    return chosen.backup, check


def _replay(cursor: Any, chosen: Plan, *, is_mariadb: bool) -> None:
    """Runs the replication thread over the relay logs."""
    last = chosen.logs[-1]
    stop = chosen.stop or Position(last.name, last.data.unpacked)
    source, replica = ("MASTER", "SLAVE") if is_mariadb else ("SOURCE", "REPLICA")
    change = "CHANGE MASTER TO" if is_mariadb else "CHANGE REPLICATION SOURCE TO"
    begin = f"{RELAY_LOG}.{chosen.logs[0].number:06}"
    cursor.execute(
        f"{change} {source}_HOST = 'none', RELAY_LOG_FILE = %s, RELAY_LOG_POS = %s", (begin, chosen.backup.begin.offset)
    )
    until = (f"{RELAY_LOG}.{stop.number:06}", stop.offset)
    # With --skip-grant-tables, by which this session is in, no statement about users is carried out until this.
    cursor.execute("FLUSH PRIVILEGES")
    say(f"replaying the binary logs up to {stop}")
    reached = begun = chosen.backup.begin
    with progress(_bytes(chosen.logs, begun, stop), lambda: _bytes(chosen.logs, begun, reached)):
        cursor.execute(f"START {replica} SQL_THREAD UNTIL RELAY_LOG_FILE = %s, RELAY_LOG_POS = %s", until)
        while True:
            cursor.execute(f"SHOW {replica} STATUS")
            status = cursor.fetchone()
            reached = Position(status["Relay_Log_File"], status["Relay_Log_Pos"])
            # It looks for the end only before an event, and waits for one where the last log has no more.
            at_the_end = chosen.stop is None and _has_read_all(cursor, status)
            if status[f"{replica.capitalize()}_SQL_Running"] == "No" or at_the_end:
                break
            time.sleep(0.2)
    cursor.execute(f"STOP {replica} SQL_THREAD")
    if status["Last_SQL_Error"] or (reached.order < (stop.number, stop.offset) and not at_the_end):
        raise Refused(f"The replay stopped at {reached}: {status['Last_SQL_Error'] or 'it did not get further'}.")
    cursor.execute(f"RESET {replica} ALL")


def _bytes(logs: list[Log], begin: Position, end: Position) -> int:
    """Returns how many bytes the logs have between two positions."""
    return sum(log.data.unpacked for log in logs if log.number < end.number) + end.offset - begin.offset


def _has_read_all(cursor: Any, status: dict[str, Any]) -> bool:
    """Whether the thread waits for more than there is, and, of MySQL, its workers have carried out what it has read."""
    state = status.get("Slave_SQL_Running_State") or status.get("Replica_SQL_Running_State") or ""
    if "has read all relay log" not in state:
        return False
    if "Retrieved_Gtid_Set" not in status:
        return True  # MariaDB's thread carries out by itself what it reads
    cursor.execute("SELECT GTID_SUBSET(%s, %s) AS done", (status["Retrieved_Gtid_Set"], status["Executed_Gtid_Set"]))
    return bool(cursor.fetchone()["done"])


def _check(cursor: Any) -> Check:
    """Reads every table, with its indexes. Raises Refused if one is damaged."""
    cursor.execute(
        "SELECT table_schema AS `database`, table_name AS name FROM information_schema.tables WHERE table_type = "
        "'BASE TABLE' AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')"
    )
    tables = [f"`{row['database']}`.`{row['name']}`" for row in cursor.fetchall()]
    say(f"checking {len(tables)} tables")
    revision, checked = "", 0
    with progress(len(tables), lambda: checked, count):
        for table in tables:
            _check_table(cursor, table)
            checked += 1
            if table.endswith(".`alembic_version`"):
                cursor.execute(f"SELECT version_num FROM {table}")
                revision = ", ".join(row["version_num"] for row in cursor.fetchall())
    return Check(datetime.now(UTC), revision, len(tables))


def _check_table(cursor: Any, table: str) -> None:
    """Raises Refused if the table is damaged."""
    cursor.execute(f"CHECK TABLE {table}")
    for row in cursor.fetchall():
        if row["Msg_type"] == "error" or (row["Msg_type"] == "status" and row["Msg_text"] != "OK"):
            raise Refused(f"{table} is damaged in the backup ({row['Msg_text']}): restore an earlier one by --backup.")


def _connection(directory: Path) -> "pymysql.Connection[Any]":
    """Returns a connection when the server has recovered its copy."""
    found: list[pymysql.Connection[Any]] = []

    def answers() -> bool:
        if (directory / ENDED).exists():
            raise Refused("The private server that was to replay the binary logs did not start: its log is above.")
        try:
            found.append(pymysql.connect(unix_socket=str(directory / SOCKET), user="root", autocommit=True))
        except pymysql.err.OperationalError:
            return False
        return True

    _wait(answers, "The private server that was to replay the binary logs does not answer.")
    return found[0]


def _wait(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + _LIMIT
    while not condition():
        if time.monotonic() > end:
            raise Refused(otherwise)
        time.sleep(0.1)
