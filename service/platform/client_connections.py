"""Hypercorn's connections to its clients: closed as soon as either side has closed, and as many as the system allows.

At the end of a client's stream Hypercorn 0.18 (`asyncio/tcp_server.py`) waits for its idle timer, up to
keep_alive_timeout, before it closes the connection (CLOSE-WAIT): after bursts a worker has no descriptors left. And a
connection that it closes stays until the client has read what is left, which one that never reads does not.
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

LINGER = 5.0
"""Seconds in which the client of a closed connection may still read what was sent."""

INTERVAL = 1.0
"""Seconds between two looks whether a file can still be opened."""

WAY_OUT = "raise the hard limit of open files (ulimit -Hn, LimitNOFILE= of systemd, ulimits of Compose)"

log = logging.getLogger(__name__)


def register(app: Quart) -> None:
    """Changes Hypercorn's class, and raises this process's limit of open files, when the worker begins to serve."""

    @app.before_serving
    async def prepare() -> None:
        _close_in_time()
        _raise_descriptors()

    @app.while_serving
    async def watch() -> AsyncGenerator[None]:
        watching = asyncio.create_task(_say_when_no_file_can_be_opened())
        yield
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@functools.cache
def _close_in_time() -> None:
    """Ends the idle timer with the client's stream, and starts none afterwards; aborts what is closed and not read."""
    if not {"_read_data", "_idle_timeout", "_close"} <= set(vars(TCPServer)):
        log.error(
            "this Hypercorn reads its connections otherwise than 0.18: those that clients have closed may stay open; "
            "use the Hypercorn that requirements/production.txt pins"
        )
        return
    read_data, idle_timeout, close = TCPServer._read_data, TCPServer._idle_timeout, TCPServer._close

    async def read_to_the_end(server: TCPServer) -> None:
        await read_data(server)
        await server.idle_task.stop()

    async def wait_unless_ended(server: TCPServer) -> None:
        if not server.reader.at_eof():
            await idle_timeout(server)

    async def close_or_abort(server: TCPServer) -> None:
        transport = server.writer.transport
        if transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER, transport.abort)
        await close(server)

    TCPServer._read_data = read_to_the_end  # type: ignore[method-assign, assignment]
    TCPServer._idle_timeout = wait_unless_ended  # type: ignore[method-assign, assignment]
    TCPServer._close = close_or_abort  # type: ignore[method-assign, assignment]


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
