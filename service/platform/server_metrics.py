"""The few of the database server's own numbers that everybody needs, as the service's user may read them.

They have the names that Prometheus' mysqld_exporter gives them (https://github.com/prometheus/mysqld_exporter), which
tells far more, so that whoever runs it has the same alerts and charts.
"""

import logging

from sqlalchemy import bindparam, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.platform.metrics import gauge

_STATUS = {
    name.lower(): gauge(f"mysql_global_status_{name.lower()}", f"{name} of the database's server.", joined="own")
    for name in (
        "Aborted_connects",
        "Innodb_row_lock_current_waits",
        "Innodb_row_lock_time",
        "Innodb_row_lock_waits",
        "Queries",
        "Slow_queries",
        "Threads_connected",
        "Threads_running",
        "Uptime",
    )
}
_MAXIMUM = gauge(
    "mysql_global_variables_max_connections", "Connections that the database's server takes.", joined="own"
)

_READ_STATUS = text("SHOW GLOBAL STATUS WHERE Variable_name IN :names").bindparams(
    bindparam("names", list(_STATUS), expanding=True)
)
_READ_MAXIMUM = text("SELECT @@max_connections")

log = logging.getLogger(__name__)


async def measure(engine: AsyncEngine) -> None:
    """Sets the metrics. Where the server cannot be asked, they stay as they are."""
    try:
        async with engine.connect() as connection:
            for name, value in await connection.execute(_READ_STATUS):
                _STATUS[name.lower()].set(float(value))
            _MAXIMUM.set((await connection.execute(_READ_MAXIMUM)).scalar_one())
    except exc.DBAPIError as error:
        log.warning("the database server's numbers could not be read: %s", error.orig)
