"""Hypercorn's connections to its clients: closed as soon as the client has closed, and as many as the system allows.

At the end of a client's stream Hypercorn 0.18 (`asyncio/tcp_server.py`) waits for its idle timer, up to
keep_alive_timeout, before it closes the connection (CLOSE-WAIT): after bursts a worker has no descriptors left.
"""

import functools
import logging
import sys

from hypercorn.asyncio.tcp_server import TCPServer
from quart import Quart

log = logging.getLogger(__name__)


def register(app: Quart) -> None:
    """Changes Hypercorn's class, and raises this process's limit of open files, when the worker begins to serve."""

    @app.before_serving
    async def prepare() -> None:
        _close_at_end_of_stream()
        _raise_descriptors()


@functools.cache
def _close_at_end_of_stream() -> None:
    """Ends the idle timer with the client's stream, and starts none afterwards."""
    if not {"_read_data", "_idle_timeout"} <= set(vars(TCPServer)):
        log.error(
            "this Hypercorn reads its connections otherwise than 0.18: those that clients have closed may stay open; "
            "use the Hypercorn that requirements/production.txt pins"
        )
        return
    read_data, idle_timeout = TCPServer._read_data, TCPServer._idle_timeout

    async def read_to_the_end(server: TCPServer) -> None:
        await read_data(server)
        await server.idle_task.stop()

    async def wait_unless_ended(server: TCPServer) -> None:
        if not server.reader.at_eof():
            await idle_timeout(server)

    TCPServer._read_data = read_to_the_end  # type: ignore[method-assign, assignment]
    TCPServer._idle_timeout = wait_unless_ended  # type: ignore[method-assign, assignment]


def _raise_descriptors() -> None:
    """Raises the soft limit of open files to the hard one; each connection needs a descriptor."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
