"""Names of MySQL's and MariaDB's error numbers: PyMySQL's, and those that it lacks.

https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html and
https://mariadb.com/kb/en/mariadb-error-code-reference/
"""

import re
from typing import Final

from pymysql.constants import CR, ER

CR_SERVER_LOST: Final[int] = CR.CR_SERVER_LOST
"""The client's own: the connection ended before an answer."""

CR_SSL_CONNECTION_ERROR: Final[int] = CR.CR_SSL_CONNECTION_ERROR
"""The client's own: TLS was wanted and did not come about."""

CR_ERROR_FIRST: Final[int] = CR.CR_ERROR_FIRST
CR_ERROR_LAST: Final[int] = CR.CR_ERROR_LAST
"""The client's own numbers are from the first to the last."""

ER_DUP_ENTRY: Final[int] = ER.DUP_ENTRY
ER_LOCK_DEADLOCK: Final[int] = ER.LOCK_DEADLOCK
ER_LOCK_WAIT_TIMEOUT: Final[int] = ER.LOCK_WAIT_TIMEOUT
ER_NEW_ABORTING_CONNECTION: Final[int] = ER.NEW_ABORTING_CONNECTION
ER_NO_SUCH_THREAD: Final[int] = ER.NO_SUCH_THREAD
ER_NO_SUCH_TABLE: Final[int] = ER.NO_SUCH_TABLE
ER_PACKET_TOO_LARGE: Final[int] = ER.NET_PACKET_TOO_LARGE
ER_QUERY_INTERRUPTED: Final[int] = ER.QUERY_INTERRUPTED
ER_SERVER_SHUTDOWN: Final[int] = ER.SERVER_SHUTDOWN

ER_DATA_OUT_OF_RANGE: Final = 1690

ER_CONNECTION_KILLED: Final = 1927
"""MariaDB's, of a session that was ended by KILL."""

ER_SESSION_WAS_KILLED: Final = 3169
"""MySQL's, of a session that was ended by KILL."""

ER_CLIENT_INTERACTION_TIMEOUT: Final = 4031
"""MySQL's, of a session that was idle for longer than wait_timeout."""

ER_QUERY_TIMEOUT: Final = 3024
"""MySQL's, of a statement that took longer than max_execution_time."""

ER_ACCESS_DENIED_NO_PASSWORD: Final = 1698
"""MariaDB's, of a user who may only log in by another way."""

ER_READ_ONLY_MODE: Final = 1836
"""MySQL's, of a server that takes no writes."""

ER_TOO_MANY_CONCURRENT_TRANSACTIONS: Final = 1637

ER_SECURE_TRANSPORT_REQUIRED: Final = 3159
"""MySQL's, of a connection without TLS."""

ER_STATEMENT_BINLOG: Final = 1665
"""Of a statement that binlog_format=STATEMENT cannot log: each write of a READ COMMITTED transaction."""

ER_STATEMENT_TIMEOUT: Final = 1969
"""MariaDB's, of a statement that took longer than max_statement_time."""

ER_FK_DUP_NAME: Final = 1826
"""MariaDB's of a CHECK, too."""

ER_CHECK_CONSTRAINT_DUP_NAME: Final = 3822

ER_ALTER_NOT_SUPPORTED: Final = 1845
ER_ALTER_NOT_SUPPORTED_REASON: Final = 1846
"""Of an ALTER TABLE that cannot be done by the ALGORITHM or with the LOCK that it asks for."""

CONNECTION_ENDED: Final = frozenset(
    {
        ER_SERVER_SHUTDOWN,
        ER_NEW_ABORTING_CONNECTION,
        ER_CONNECTION_KILLED,
        ER_SESSION_WAS_KILLED,
        ER_CLIENT_INTERACTION_TIMEOUT,
    }
)
"""Answers with which the server ends the connection."""

NO_ROOM: Final = frozenset(
    {
        ER.CON_COUNT_ERROR,
        ER.TOO_MANY_USER_CONNECTIONS,
        ER.USER_LIMIT_REACHED,
        ER.HOST_IS_BLOCKED,
        ER.OUTOFMEMORY,
        ER.OUT_OF_RESOURCES,
    }
)
"""The server has no room for another connection, or takes none of this client's, for the time being."""

TRANSIENT: Final = (
    CONNECTION_ENDED
    | NO_ROOM
    | {
        ER_LOCK_DEADLOCK,
        ER_LOCK_WAIT_TIMEOUT,
        ER_NO_SUCH_TABLE,  # of a migration that has not run yet
        ER_QUERY_INTERRUPTED,
        ER_QUERY_TIMEOUT,
        ER_READ_ONLY_MODE,
        ER_STATEMENT_BINLOG,
        ER_STATEMENT_TIMEOUT,
        ER_TOO_MANY_CONCURRENT_TRANSACTIONS,
        ER.DISK_FULL,
        ER.LOCK_TABLE_FULL,
        ER.OUT_OF_SORTMEMORY,
        ER.RECORD_FILE_FULL,
        ER.UNKNOWN_COM_ERROR,  # of a node of a Galera cluster that is not ready
    }
)
"""They are due to the server's state, not to the statement: a later attempt may succeed."""


def is_read_only(error: BaseException) -> bool:
    """Whether the server takes no writes: for ever, or since a failover, after which another one does."""
    code, text = (*error.args, 0, "")[:2]
    return code == ER_READ_ONLY_MODE or (
        code == ER.OPTION_PREVENTS_STATEMENT and re.search("read[-_]only", str(text)) is not None
    )


_WAYS_OUT: Final = (
    ({CR.CR_CONN_HOST_ERROR}, "start it, or correct DB_HOST and DB_PORT"),
    ({ER.ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD}, "correct DB_USERNAME and DB_PASSWORD, or set DB_SSL_MODE"),
    ({ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR}, "correct DATABASE_NAME, or make the database and its users"),
    ({ER.TABLEACCESS_DENIED_ERROR}, "grant the user what deploy/database/users.sql does"),
    ({ER_NO_SUCH_TABLE, ER.BAD_FIELD_ERROR}, "a table or column is missing, though the schema's revision is right"),
    ({ER_SECURE_TRANSPORT_REQUIRED}, "it takes encrypted connections only; set DB_SSL_MODE"),
    ({CR_SSL_CONNECTION_ERROR}, "correct DB_SSL_MODE, DB_SSL_CA or DB_HOST, or the server's certificate"),
    ({ER_STATEMENT_BINLOG}, "its binary log has the format STATEMENT; set binlog_format to ROW or MIXED"),
    ({ER.HOST_IS_BLOCKED}, "it has blocked this host after broken logins; execute FLUSH HOSTS on it"),
    (
        {ER.OPTION_PREVENTS_STATEMENT, ER_READ_ONLY_MODE},
        "it takes no writes; end its read_only, or have DB_HOST name the server that takes them",
    ),
    (NO_ROOM, "it has no room for more connections; lower WORKERS or DB_POOL_SIZE, or raise its limit"),
    (
        {ER.UNKNOWN_SYSTEM_VARIABLE, ER.UNKNOWN_CHARACTER_SET, ER.UNKNOWN_COLLATION},
        "it lacks something that is needed; docs/runbook.md names the servers that will do",
    ),
    (
        {ER.SPECIFIC_ACCESS_DENIED_ERROR},
        "its user may not set what each session needs; docs/runbook.md names the variables",
    ),
)


def way_out(code: int) -> str:
    """Returns what to do against an error, with a colon before it; "" where that is not known."""
    return next((f": {way}" for codes, way in _WAYS_OUT if code in codes), "")
