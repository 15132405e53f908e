"""The users of the database may do their work on both servers, and nothing else."""

import pymysql
import pytest

from harness.databases import Database

ROWS = (
    "INSERT INTO {0}.kept VALUES ()",
    "SELECT * FROM {0}.kept",
    "UPDATE {0}.kept SET id = 7",
    "DELETE FROM {0}.kept",
)
SCHEMA = (
    "TRUNCATE {0}.kept",
    "ALTER TABLE {0}.kept ADD COLUMN more INT",
    "CREATE TABLE {0}.another (id INT)",
    "DROP TABLE {0}.another",
)
LOGS = ("SHOW BINARY LOGS", "FLUSH BINARY LOGS")
SERVER = (
    "CREATE DATABASE another",
    "SELECT * FROM mysql.user",
    "SHOW GRANTS FOR root@localhost",
    "CREATE USER another",
    "GRANT SELECT ON {0}.* TO CURRENT_USER",
    "SET GLOBAL max_connections = 1",
    "SET GLOBAL general_log = 1",
    "KILL {1}",
    "SHUTDOWN",
    "SELECT 'x' INTO OUTFILE '/tmp/x'",
    "LOAD DATA INFILE '/etc/passwd' INTO TABLE {0}.kept",
)


@pytest.mark.parametrize(("user", "allowed"), [("service", ROWS), ("migration", ROWS + SCHEMA), ("backup", LOGS)])
def test_a_user_may_do_its_work_and_nothing_else(user: str, allowed: tuple[str, ...], empty_database: Database) -> None:
    server, name = empty_database.server, f"`{empty_database.name}`"
    if not server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    empty_database.execute("CREATE TABLE kept (id INT PRIMARY KEY AUTO_INCREMENT)")
    own = empty_database.environment
    username, password = {
        "service": (own["DB_USERNAME"], own["DB_PASSWORD"]),
        "migration": (own["MIGRATION_DB_USERNAME"], own["MIGRATION_DB_PASSWORD"]),
        "backup": (f"{own['DB_USERNAME']}_b", own["DB_PASSWORD"]),
    }[user]
    login = {"host": server.host, "port": server.port, "user": username, "password": password}
    with server.connect() as another, pymysql.connect(**login) as session:  # type: ignore[call-overload]
        process = another.thread_id()  # type: ignore[no-untyped-call]
        for statement in ROWS + SCHEMA + LOGS + SERVER:
            with session.cursor() as cursor:
                if statement in allowed:
                    cursor.execute(statement.format(name, process))
                else:
                    with pytest.raises(pymysql.err.MySQLError, match=r"denied|not owner"):
                        cursor.execute(statement.format(name, process))
