"""Names of MySQL's and MariaDB's error numbers: PyMySQL's, and those that it lacks.

https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html and
https://mariadb.com/kb/en/mariadb-error-code-reference/
"""

from typing import Final

from pymysql.constants import CR, ER

CR_SERVER_LOST: Final[int] = CR.CR_SERVER_LOST
"""The client's own: the connection ended before an answer."""

CR_ERROR_FIRST: Final[int] = CR.CR_ERROR_FIRST
CR_ERROR_LAST: Final[int] = CR.CR_ERROR_LAST
"""The client's own numbers are from the first to the last."""

ER_DUP_ENTRY: Final[int] = ER.DUP_ENTRY
ER_LOCK_DEADLOCK: Final[int] = ER.LOCK_DEADLOCK
ER_LOCK_WAIT_TIMEOUT: Final[int] = ER.LOCK_WAIT_TIMEOUT
ER_NEW_ABORTING_CONNECTION: Final[int] = ER.NEW_ABORTING_CONNECTION
ER_NO_SUCH_THREAD: Final[int] = ER.NO_SUCH_THREAD
ER_NO_SUCH_TABLE: Final[int] = ER.NO_SUCH_TABLE
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

ER_STATEMENT_TIMEOUT: Final = 1969
"""MariaDB's, of a statement that took longer than max_statement_time."""
