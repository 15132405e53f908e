"""The database server that is backed up, as a user who may read no row: its data, and its binary logs.

Both servers copy their data without stopping; the copy is what the server would find after a power cut, and says by
itself up to where in the binary logs it goes: MySQL's by the transactions' GTIDs, MariaDB's by a position.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymysql

from deploy.backup.errors import Refused
from deploy.backup.place import Position, written
from deploy.make_secrets import read


class Server:
    """A connection to the server, and the directory where its files can be read."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._host, self._port = os.environ["DB_HOST"], int(os.environ["DB_PORT"])
        self._user = os.environ["BACKUP_DB_USERNAME"]
        self._password = read(Path(os.environ["BACKUP_DB_PASSWORD_FILE"]))
        with _refusals():
            self._connection = self._connected()
            ((version, self._session),) = self._rows("SELECT VERSION(), CONNECTION_ID()")
        self.is_mariadb = "mariadb" in version.lower()
        self.product = "MariaDB" if self.is_mariadb else "MySQL"
        self.version = version.partition("-")[0]

    def _connected(self) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host=self._host,
            port=self._port,
            user=self._user,
            password=self._password,
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
        )

    @cached_property
    def identity(self) -> str:
        """Another one whenever a data directory is made anew, and so for each history of binary logs."""
        if not self.is_mariadb:
            ((identity,),) = self._rows("SELECT @@server_uuid")
            return str(identity)
        # MariaDB's own is another with each port. This file is in no copy, since mariadb-backup leaves it out.
        noted = self.data / "backup-identity"
        if not noted.exists():
            with written(noted) as file:
                file.write(str(uuid4()).encode())
        return noted.read_text()

    def now(self) -> datetime:
        ((now,),) = self._rows("SELECT NOW(6)")
        return now.replace(tzinfo=UTC)  # type: ignore[no-any-return]

    def position(self) -> Position:
        """Returns where the next transaction will begin in the binary logs, or later."""
        (row,) = self._rows("SHOW MASTER STATUS" if self.is_mariadb else "SHOW BINARY LOG STATUS")
        return Position(row[0], row[1])

    def closed_logs(self) -> list[tuple[Path, int]]:
        """Begins another binary log; returns the files of all before it, the oldest first, with their bytes."""
        self._rows("FLUSH BINARY LOGS")
        return [(self.data / row[0], row[1]) for row in self._rows("SHOW BINARY LOGS")][:-1]

    def purge_logs(self, before: str) -> None:
        """Has the server delete the binary logs before that one."""
        self._rows("PURGE BINARY LOGS TO %s", before)

    def size(self) -> int:
        """Returns the bytes of the server's data, without its binary logs."""
        files = [path for path in self.data.rglob("*") if path.is_file() and not path.name.startswith("binlog.")]
        return sum(path.stat().st_size for path in files)

    def copy(self, into: Path) -> Position:
        """Copies all data into a new directory; returns from where the binary logs are to be replayed over them."""
        return self._copy_mariadb(into) if self.is_mariadb else self._clone(into)

    def _clone(self, into: Path) -> Position:
        ((mode,),) = self._rows("SELECT @@gtid_mode")
        if mode != "ON":
            raise Refused("The server has no GTIDs, by which a restore knows what a copy has: set gtid_mode = ON.")
        begin = Position(self.position().log, 4)
        try:
            self._rows("CLONE LOCAL DATA DIRECTORY = %s", str(into))
        except KeyboardInterrupt:
            with _refusals(), self._connected() as other, other.cursor() as cursor:
                cursor.execute("KILL %s", (self._session,))
            raise
        return begin

    def _copy_mariadb(self, into: Path) -> Position:
        command = ["mariadb-backup", "--backup", f"--datadir={self.data}", f"--target-dir={into}"]
        command += [f"--host={self._host}", f"--port={self._port}", f"--user={self._user}"]
        # By the environment, so that the list of processes does not show it.
        self._run(command, MYSQL_PWD=self._password)
        self._run(["mariadb-backup", "--prepare", f"--target-dir={into}"])
        (noted,) = [*into.glob("*_binlog_info")]  # mariadb_backup_, in 10.11 xtrabackup_
        log, offset = noted.read_text().split("\t")[:2]
        return Position(log, int(offset))

    def _run(self, command: list[str], **environment: str) -> None:
        ended = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            (*_, last) = ended.stderr.splitlines()
            raise Refused(f"{command[0]} failed ({ended.returncode}): {last.rstrip('.')}.")

    def _rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with _refusals(), self._connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except pymysql.MySQLError as error:
        number, *text = error.args
        raise Refused(f"The database refused it: {' '.join(map(str, text))} (error {number}).") from None
