"""Hypercorn's connections to its clients: closed as soon as the client has closed, and as many as the system allows.

At the end of a client's stream Hypercorn 0.18 (`asyncio/tcp_server.py`) waits for its idle timer, up to
keep_alive_timeout, before it closes the connection (CLOSE-WAIT): after bursts a worker has no descriptors left.
"""

import asyncio
import functools
import logging
import os
import sys
from collections.abc import AsyncGenerator

from hypercorn.asyncio.tcp_server import TCPServer
from quart import Quart

ENOUGH = 4_096
"""Files that a worker should be allowed to open; a connection is one."""

INTERVAL = 1.0
"""Seconds between two looks whether a file can still be opened."""

WAY_OUT = "raise the hard limit of open files (ulimit -Hn, LimitNOFILE= of systemd, ulimits of Compose)"

log = logging.getLogger(__name__)


def register(app: Quart) -> None:
    """Changes Hypercorn's class, and raises this process's limit of open files, when the worker begins to serve."""

    @app.before_serving
    async def prepare() -> None:
        _close_at_end_of_stream()
        _raise_descriptors()

    @app.while_serving
    async def watch() -> AsyncGenerator[None]:
        watching = asyncio.create_task(_say_when_no_file_can_be_opened())
        yield
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


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
    if hard != resource.RLIM_INFINITY and hard < ENOUGH:
        log.warning("this worker may open %d files, and %d are advised: %s", hard, ENOUGH, WAY_OUT)


async def _say_when_no_file_can_be_opened() -> None:
    """Logs when it begins and when it ends. Nothing else would: uvloop closes what it cannot accept, in silence."""
    before = ""
    while True:
        reason = _reason_against_a_file()
        if reason and not before:
            log.error("no file can be opened (%s): new connections are closed unanswered; %s", reason, WAY_OUT)
        elif before and not reason:
            log.warning("files can be opened again")
        before = reason
        await asyncio.sleep(INTERVAL)


def _reason_against_a_file() -> str:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return str(error.strerror)
    return ""
