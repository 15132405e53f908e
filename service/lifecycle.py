"""How a worker leaves: after the requests that it holds, whichever process is stopped or dies first.

Hypercorn's master gives its workers one shared event, and leaves with SIGTERM whatever is still running as soon as one
of them has ended (hypercorn 0.18, `run.py`). So a worker ignores SIGTERM and leaves by that event alone; it also sets
the event when the master is gone, since it would otherwise hold the port for ever.
"""

import asyncio
import logging
import multiprocessing
import signal
from multiprocessing.synchronize import Event

from quart import Quart

log = logging.getLogger(__name__)


def register(app: Quart) -> None:
    """Makes a worker of Hypercorn's leave as described; elsewhere (`quart run`) it changes nothing."""

    @app.before_serving
    async def leave_by_the_event() -> None:
        parent, event = multiprocessing.parent_process(), _shutdown_event()
        if parent is None or event is None:
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        loop = asyncio.get_running_loop()

        def master_is_gone() -> None:
            loop.remove_reader(parent.sentinel)
            log.error("the Hypercorn master is gone: this worker ends its requests and leaves")
            event.set()

        loop.add_reader(parent.sentinel, master_is_gone)


def draining() -> bool:
    """Whether this worker has been told to leave. It answers what it holds and takes nothing new."""
    event = _shutdown_event()
    return event is not None and event.is_set()


def _shutdown_event() -> Event | None:
    """The event that Hypercorn gave to this process, None if it did not start it. Nothing public leads to it."""
    arguments: dict[str, object] = getattr(multiprocessing.current_process(), "_kwargs", {})
    event = arguments.get("shutdown_event")
    return event if isinstance(event, Event) else None
