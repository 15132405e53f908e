"""Database servers for tests, and databases on them.

By default a private MariaDB and, where a Docker engine answers, a MySQL container: both are supported, so a test that
takes a database runs on both. With DB_HOST set, that server is used instead, as root where MYSQL_ROOT_PASSWORD is set
and as DB_USERNAME where it is not.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pymysql

from harness.processes import container_name, free_port, stop, wait_until
from service.platform import quartenv
from service.platform.settings import ROOT

PREFIX = "tally_test_"
MARIADB = ROOT / "deploy/mariadb/start"
ALLOWANCE = (
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES "
    f"ON `{PREFIX}%`.*"
).replace("_", r"\_")


@dataclass(frozen=True)
class DatabaseServer:
    """A server, and a user who may create databases on it, and users if `is_root`."""

    host: str
    port: int
    username: str
    password: str
    is_root: bool
    process: "subprocess.Popen[bytes] | None" = None

    def end(self, signal: int) -> None:
        """Sends the signal to a private server and returns when it has ended."""
        assert self.process is not None
        self.process.send_signal(signal)
        self.process.wait(30)

    def connect(self, **arguments: Any) -> "pymysql.Connection[Any]":
        """Returns a connection that commits by itself."""
        return pymysql.connect(
            host=self.host, port=self.port, user=self.username, password=self.password, autocommit=True, **arguments
        )

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Executes the statements as that user; returns the rows of the last."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    @contextmanager
    def variables(self, **values: object) -> Iterator[None]:
        """Sets the server's global variables for the length of the block; new sessions have them."""
        former = self.execute(f"SELECT {', '.join(f'@@GLOBAL.{name}' for name in values)}")[0]
        self._set(values)
        try:
            yield
        finally:
            self._set(dict(zip(values, former, strict=True)))

    def _set(self, values: Mapping[str, object]) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            for name, value in values.items():
                cursor.execute(f"SET GLOBAL {name} = %s", (value,))


@dataclass(frozen=True)
class Database:
    """A database with its two users, and the environment variables that name them."""

    server: DatabaseServer
    name: str
    environment: dict[str, str]

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Runs a statement in this database and returns its rows."""
        with self.server.connect(database=self.name) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def tables(self) -> list[str]:
        """Returns the SQL that copies this database's tables and rows to another."""
        statements = ["SET foreign_key_checks = 0"]
        with self.server.connect(database=self.name) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW TABLES")
            for (table,) in cursor.fetchall():
                cursor.execute(f"SHOW CREATE TABLE `{table}`")
                statements.append(cursor.fetchone()[1])
                cursor.execute(f"SELECT * FROM `{table}`")
                for row in cursor.fetchall():
                    values = ", ".join(["%s"] * len(row))
                    statements.append(cursor.mogrify(f"INSERT INTO `{table}` VALUES ({values})", row))
        return statements

    def make_tables(self, statements: Sequence[str]) -> None:
        """Executes what `tables` returned."""
        with self.server.connect(database=self.name) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def processes(self) -> list[dict[str, Any]]:
        """Returns the connections to this database: id, host (address:port), command and the like."""
        with self.server.connect(cursorclass=pymysql.cursors.DictCursor) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW FULL PROCESSLIST")
            return [row for row in cursor.fetchall() if row["db"] == self.name]

    def kill_connections(self) -> None:
        """Ends the connections to this database, as an administrator or a restart would."""
        for process in self.processes():
            with suppress(pymysql.err.OperationalError):  # it has ended meanwhile
                self.server.execute(f"KILL {process['Id']}")


def configured_server() -> DatabaseServer | None:
    """Returns the server that DB_HOST, in the environment or .quartenv, names; None if it is not set."""
    configured = {**quartenv.read(ROOT / ".quartenv"), **os.environ}
    host = configured.get("DB_HOST")
    if not host:
        return None
    root_password = configured.get("MYSQL_ROOT_PASSWORD")
    return DatabaseServer(
        host=host,
        port=int(configured.get("DB_PORT") or 3306),
        username="root" if root_password else configured.get("DB_USERNAME") or "",
        password=root_password or configured.get("DB_PASSWORD") or "",
        is_root=bool(root_password),
    )


@contextmanager
def private_mariadb(
    directory: Path, port: int | None = None, *options: str, program: Path = MARIADB, under: Sequence[str] = ()
) -> Iterator[DatabaseServer]:
    """Starts a MariaDB with its data in `directory`, as `./run up` does, and stops it at the end.

    `under`: a command that runs another, which then runs the server; the data directory is made without it. The
    server must keep the process id of the command.
    """
    port, password = port or free_port(), uuid.uuid4().hex
    init = directory / "root.sql"
    init.write_text(f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n")
    log = directory / "server.log"
    if under:
        subprocess.run([program.with_name("create"), directory / "mariadb"], check=True)
    with run_mariadb(directory / "mariadb", port, init, *options, log=log, program=program, under=under) as process:
        server = DatabaseServer("127.0.0.1", port, "root", password, is_root=True, process=process)
        wait_until(lambda: _answers(server), process=process, log=log)
        yield server


@contextmanager
def run_mariadb(
    data: Path, port: int, init_file: Path, *options: str, log: Path, program: Path = MARIADB, under: Sequence[str] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a MariaDB that executes the file at its start, and does not wait for it; stops it at the end."""
    with log.open("w") as file:
        process = subprocess.Popen([*under, program, data, str(port), init_file, *options], stdout=file, stderr=file)
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def mysql_container() -> Iterator[DatabaseServer]:
    """Starts a container of the MySQL that the compose file uses, and removes it at the end."""
    password = uuid.uuid4().hex
    name = container_name()
    command = ["docker", "run", "--detach", "--rm", "--name", name, "--publish", "127.0.0.1::3306"]
    command += ["--tmpfs", "/var/lib/mysql:uid=999,gid=999", "--env", f"MYSQL_ROOT_PASSWORD={password}", "mysql:9.7"]
    subprocess.run(command, check=True, capture_output=True)
    try:
        published = subprocess.run(
            ["docker", "port", name, "3306/tcp"], check=True, capture_output=True, text=True
        ).stdout
        server = DatabaseServer("127.0.0.1", int(published.split(":")[-1]), "root", password, is_root=True)
        wait_until(lambda: _answers(server), limit=120)
        yield server
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], check=True, capture_output=True)


def docker_answers() -> bool:
    """Whether a Docker engine can be used here."""
    return shutil.which("docker") is not None and not subprocess.run(["docker", "info"], capture_output=True).returncode


@contextmanager
def new_database(server: DatabaseServer) -> Iterator[Database]:
    """Makes an empty database for the length of the block."""
    database = make_database(server)
    try:
        yield database
    finally:
        service = database.environment["DB_USERNAME"]
        users = service, database.environment["MIGRATION_DB_USERNAME"], f"{service}_b"
        drops = [f"DROP USER IF EXISTS '{user}'@'%'" for user in users if server.is_root]
        server.execute(f"DROP DATABASE IF EXISTS `{database.name}`", *drops)


def make_database(server: DatabaseServer) -> Database:
    """Creates an empty database with a unique name, and its users if the server's user may."""
    unique = uuid.uuid4().hex[:12]
    name, user = PREFIX + unique, f"test_{unique}"  # a user's name has 32 characters at the most
    environment = {
        "DB_HOST": server.host,
        "DB_PORT": str(server.port),
        "DATABASE_NAME": name,
        "DB_USERNAME": user if server.is_root else server.username,
        "DB_PASSWORD": "s%r@v:i/c#e" if server.is_root else server.password,
        "MIGRATION_DB_USERNAME": f"{user}_m" if server.is_root else server.username,
        "MIGRATION_DB_PASSWORD": "m%i@g:r/a#t" if server.is_root else server.password,
    }
    # As a deployment does; without root, only the database is created.
    sql = Template((ROOT / "deploy/database/users.sql").read_text()).substitute(
        database=name,
        database_pattern=name.replace("_", "\\_"),
        service_username=environment["DB_USERNAME"],
        service_password=environment["DB_PASSWORD"],
        migration_username=environment["MIGRATION_DB_USERNAME"],
        migration_password=environment["MIGRATION_DB_PASSWORD"],
        backup_username=f"{user}_b",
        backup_password=environment["DB_PASSWORD"],
    )
    statements = [line for line in sql.splitlines() if server.is_root or line.startswith("CREATE DATABASE")]
    try:
        server.execute(*statements)
    except pymysql.err.OperationalError as error:
        raise AssertionError(
            f"The tests cannot make a database as {server.username!r} on {server.host}:{server.port} ({error}): "
            f"set MYSQL_ROOT_PASSWORD, or allow that user:\n{ALLOWANCE} TO '{server.username}'@'%';"
        ) from error
    return Database(server, name, environment)


def _answers(server: DatabaseServer) -> bool:
    try:
        server.execute("SELECT 1")
    except pymysql.err.OperationalError:
        return False
    return True
