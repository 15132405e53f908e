"""The backup's user of the database may do its work on both servers, and nothing else."""

import pymysql
import pytest

from harness.databases import Database

REFUSED = (
    "SELECT * FROM {0}.kept",
    "INSERT INTO {0}.kept VALUES ()",
    "UPDATE {0}.kept SET id = 7",
    "DELETE FROM {0}.kept",
    "TRUNCATE {0}.kept",
    "DROP TABLE {0}.kept",
    "ALTER TABLE {0}.kept ADD COLUMN more INT",
    "CREATE TABLE {0}.another (id INT)",
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
ALLOWED = ("SHOW BINARY LOGS", "FLUSH BINARY LOGS", "SELECT @@log_bin, @@server_id")


def test_the_backups_user_may_read_no_row_and_change_nothing(empty_database: Database) -> None:
    server, name = empty_database.server, f"`{empty_database.name}`"
    if not server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    empty_database.execute("CREATE TABLE kept (id INT PRIMARY KEY AUTO_INCREMENT)")
    own = empty_database.environment
    login = {
        "host": server.host,
        "port": server.port,
        "user": f"{own['DB_USERNAME']}_b",
        "password": own["DB_PASSWORD"],
    }
    with server.connect() as another, pymysql.connect(**login) as session:  # type: ignore[call-overload]
        process = another.thread_id()  # type: ignore[no-untyped-call]
        for statement in ALLOWED:
            session.cursor().execute(statement)
        for statement in REFUSED:
            with pytest.raises(pymysql.err.MySQLError, match=r"denied|not owner"):
                session.cursor().execute(statement.format(name, process))
