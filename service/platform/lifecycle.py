"""Graceful shutdown of a worker: it ends its requests first, whichever process is stopped or dies.

Hypercorn's master (0.18, `run.py`) gives its workers one shared event and the listening sockets. As soon as one worker
has ended it sends the others SIGTERM, so a worker ignores that and leaves by the event alone. It keeps the sockets open
until all have ended, with nobody to accept what still connects, so the first worker that closes its own stops them. And
its workers outlive it if it is killed, holding the port, so they watch it.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import socket
import sys
import tomllib
from collections.abc import AsyncGenerator, Iterable
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

from hypercorn.config import Config, Sockets
from quart import Quart

from service.platform.settings import ROOT

EVENT_INTERVAL = 0.1
"""Seconds between two looks at the event: Hypercorn's own interval, within which all workers close their sockets."""

CLOSE_INTERVAL = 0.005

log = logging.getLogger(__name__)


def register(app: Quart) -> None:
    """Makes a worker of Hypercorn's leave as described; elsewhere (`quart run`, other servers) it changes nothing."""
    if (given := _given_by_hypercorn()[0]) is not None:
        _read_without_its_lock(given)

    @app.while_serving
    async def leave_in_order() -> AsyncGenerator[None]:
        master, (event, sockets) = multiprocessing.parent_process(), _given_by_hypercorn()
        if master is None or event is None or sys.platform == "win32":
            if master is not None and event is None and not _is_another_server():
                log.error(
                    "this worker was given no shutdown event that is known here (Hypercorn 0.18 does): it does not end "
                    "its requests before it leaves; use the Hypercorn that requirements/production.txt pins"
                )
            yield
            return
        _warn_of_unknown_keys()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _leave_after(master, event)
        refusing = asyncio.create_task(_refuse_when_leaving(event, sockets))
        yield
        refusing.cancel()
        await asyncio.gather(refusing, return_exceptions=True)


def draining() -> bool:
    """Whether this worker is shutting down: it answers the requests that it has, and takes no new ones."""
    event, _ = _given_by_hypercorn()
    return event is not None and event.is_set()


def _read_without_its_lock(event: Event) -> None:
    """Has `is_set` look at the event's semaphore alone, for all that ask in this process, Hypercorn included.

    Python's own takes the event's lock, many times a second. A worker that is killed while it has the lock keeps it for
    ever: the others and the master would stop at once, in the middle of their transactions.
    """
    is_zero = event._flag._semlock._is_zero  # type: ignore[attr-defined]
    event.is_set = lambda: not is_zero()  # type: ignore[method-assign]


def _warn_of_unknown_keys() -> None:
    """Hypercorn ignores in silence what it does not know in its file, a misspelt time-out for one."""
    for key in tomllib.loads((ROOT / "hypercorn.toml").read_text()):
        if not hasattr(Config, key):
            log.error("hypercorn.toml has the key %r, which Hypercorn does not know and ignores: correct it", key)


def _leave_after(master: BaseProcess, event: Event) -> None:
    loop = asyncio.get_running_loop()

    def master_is_gone() -> None:
        loop.remove_reader(master.sentinel)
        log.error("the Hypercorn master is gone: this worker ends its requests and leaves")
        event.set()

    loop.add_reader(master.sentinel, master_is_gone)


async def _refuse_when_leaving(event: Event, sockets: Iterable[socket.socket]) -> None:
    """Once Hypercorn has closed this worker's sockets, makes them refuse connections in every process that has them.

    A connection is then refused rather than left to wait, and whoever connects can turn to another replica.
    """
    shared = [(own, own.dup()) for own in sockets]
    try:
        while not event.is_set():  # noqa: ASYNC110  # set by another process
            await asyncio.sleep(EVENT_INTERVAL)
        for own, duplicate in shared:
            while own.fileno() != -1:  # noqa: ASYNC110  # nothing tells when Hypercorn closes it
                await asyncio.sleep(CLOSE_INTERVAL)
            with contextlib.suppress(OSError):  # another worker was first; macOS does not know it
                duplicate.shutdown(socket.SHUT_RD)
    finally:
        for _, duplicate in shared:
            duplicate.close()


def _is_another_server() -> bool:
    """Whether this process is a worker of another server than Hypercorn, by the function that it was started with."""
    target = getattr(multiprocessing.current_process(), "_target", None)
    return getattr(target, "__module__", "hypercorn").partition(".")[0] != "hypercorn"


def _given_by_hypercorn() -> tuple[Event | None, list[socket.socket]]:
    """The event and the listening sockets that Hypercorn gave to this process; nothing public leads to them."""
    arguments: dict[str, object] = getattr(multiprocessing.current_process(), "_kwargs", {})
    event, sockets = arguments.get("shutdown_event"), arguments.get("sockets")
    if not isinstance(event, Event) or not isinstance(sockets, Sockets):
        return None, []
    return event, [*sockets.secure_sockets, *sockets.insecure_sockets]
