"""The begin and the end of a worker: no request fails by either, whichever process is stopped or dies.

Until a worker has been ready once it does not listen where other hosts reach it: whoever connects is refused, and can
turn to another replica since nothing was sent yet. Where only this host reaches it (a loopback address, a Unix socket),
it listens from the start, and says why it is not ready. One that is no longer ready goes on listening.

A worker that is told to leave

1. says `Connection: close` in its answers from now on, and ends its streams of events (event_stream.py);
2. has new connections refused, so that whoever connects can turn to another replica, accepts those that wait, and
   closes its listening sockets;
3. for SHUTDOWN_DELAY seconds answers what comes on the connections that it has. A proxy that closes idle ones sooner
   (`keepalive_timeout` of nginx's upstream) has none afterwards on which a request could be lost;
4. leaves by Hypercorn's own way, which closes idle connections and ends the requests in flight (`graceful_timeout`).

Hypercorn's master (0.18, `run.py`) gives its workers one shared event and the listening sockets. As soon as one worker
has ended it sends the others SIGTERM, so a worker ignores that and leaves by the event alone. It keeps the sockets open
until all have ended, with nobody to accept what still connects, so the first worker that closes its own stops them. And
its workers outlive it if it is killed, holding the port, so they watch it.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import select
import signal
import socket
import sys
import tomllib
from collections.abc import AsyncGenerator, Callable, Sequence
from ipaddress import ip_address
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

from hypercorn.config import Config, Sockets

from service.platform.app import App
from service.platform.settings import ROOT

EVENT_INTERVAL = 0.1
"""Seconds between two looks at the event: Hypercorn's own interval, within which all workers close their sockets."""

QUEUE_INTERVAL = 0.01
"""Seconds between two looks whether connections wait to be accepted."""

QUIET_LOOKS = 5
"""Looks in a row that found none, after which none comes: time for a handshake that had begun."""

LONGEST_QUEUE = 1.0
"""Seconds after which the sockets are closed whatever waits."""

log = logging.getLogger(__name__)


def register(app: App) -> None:
    """Makes a worker of Hypercorn's leave as described; elsewhere (`quart run`, other servers) it changes nothing."""
    if (event_at_the_start := _Given().event) is not None:
        _read_without_its_lock(event_at_the_start)

    @app.while_serving
    async def leave_in_order() -> AsyncGenerator[None]:
        begun = app.extensions["leaving"] = asyncio.Event()
        master, given = multiprocessing.parent_process(), _Given()
        event = given.event
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
        if not _is_set(event)() and any(map(_is_bound, given.sockets)):
            raise RuntimeError("Hypercorn was told to load its workers anew (SIGHUP), which cannot be: start it anew.")
        if given.config.use_reloader:  # whose new workers get sockets that listen already
            app.was_ready.set()
        servers = _remember_servers(given.sockets, app.was_ready)
        listening = asyncio.create_task(_listen(servers, app.was_ready, begun, event))
        leaving = asyncio.create_task(_leave(given, event, begun, servers, app.settings.shutdown_delay))
        yield
        for task in listening, leaving:
            task.cancel()
        await asyncio.gather(listening, leaving, return_exceptions=True)


def draining() -> bool:
    """Whether this worker is shutting down: it answers the requests that it has, and takes no new connections."""
    event = _Given().event
    return event is not None and _is_set(event)()


class _Given:
    """What Hypercorn gave to this process; nothing public leads to it."""

    def __init__(self) -> None:
        arguments: dict[str, object] = getattr(multiprocessing.current_process(), "_kwargs", {})
        event, sockets, config = (arguments.get(name) for name in ("shutdown_event", "sockets", "config"))
        self.event: Event | None = None
        self.sockets: list[socket.socket] = []
        if isinstance(event, Event) and isinstance(sockets, Sockets) and isinstance(config, Config):
            self.event, self.config = event, config
            self.sockets = [*sockets.secure_sockets, *sockets.insecure_sockets]


def _is_set(event: Event) -> Callable[[], bool]:
    """Returns a function that looks at the event's semaphore alone.

    Python's own takes the event's lock, many times a second. A worker that is killed while it has the lock keeps it for
    ever: the others and the master would stop at once, in the middle of their transactions.
    """
    is_zero = event._flag._semlock._is_zero  # type: ignore[attr-defined]
    return lambda: not is_zero()


def _read_without_its_lock(event: Event) -> None:
    """Has all that ask in this process, Hypercorn included, look at the event without its lock."""
    event.is_set = _is_set(event)  # type: ignore[method-assign]


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


def _remember_servers(sockets: Sequence[socket.socket], may_listen: asyncio.Event) -> list[asyncio.Server]:
    """Returns a list to which the servers with these sockets are added: Hypercorn keeps them to itself.

    It starts them when the application has started. Those that other hosts reach do not listen before they may.
    """
    servers: list[asyncio.Server] = []
    start_server = asyncio.start_server

    async def start_and_remember(*arguments: Any, **named: Any) -> asyncio.Server:
        own = named.get("sock")
        if own is None or own not in sockets:
            return await start_server(*arguments, **named)
        server = await start_server(*arguments, **named, start_serving=may_listen.is_set() or _is_local(own))
        servers.append(server)
        return server

    asyncio.start_server = start_and_remember
    return servers


async def _listen(
    servers: Sequence[asyncio.Server], may_listen: asyncio.Event, leaving: asyncio.Event, event: Event
) -> None:
    """Has the servers that do not listen yet do so when they may, unless the worker leaves by then.

    If one cannot, has all workers leave.
    """
    await may_listen.wait()
    if leaving.is_set():
        return
    try:
        for server in servers:
            await server.start_serving()
    except OSError:
        log.exception("this worker cannot listen, and leaves")
        event.set()


async def _leave(
    given: _Given, event: Event, begun: asyncio.Event, servers: Sequence[asyncio.Server], delay: float
) -> None:
    """Waits until this worker is told to leave, and does what comes before Hypercorn's own way; see the module.

    Sets `begun` when it is told.
    """
    is_told = _is_set(event)
    event.is_set = lambda: False  # type: ignore[method-assign]
    shared = [own.dup() for own in given.sockets]
    try:
        while not is_told():  # noqa: ASYNC110  # set by another process
            await asyncio.sleep(EVENT_INTERVAL)
        begun.set()
        given.config.keep_alive_max_requests = 0  # from which number on Hypercorn says Connection: close
        if sys.platform == "linux" and not given.config.use_reloader:  # which gives new workers the same sockets
            await _accept_the_last(shared)
        for server in servers:
            server.close()
        for one in shared:
            with contextlib.suppress(OSError):  # another worker was first; macOS does not know it
                one.shutdown(socket.SHUT_RD)
        await asyncio.sleep(delay)
    except Exception:
        log.exception("this worker leaves without its delay")
    finally:
        event.is_set = is_told  # type: ignore[method-assign]
        for one in shared:
            one.close()


async def _accept_the_last(listeners: Sequence[socket.socket]) -> None:
    """Has new connections refused, and returns when those that wait are accepted.

    Closing a listening socket resets what waits in its queue, and a request on such a connection would be lost.
    """
    waiting = select.poll()
    for one in listeners:
        _refuse_new(one)
        waiting.register(one, select.POLLIN)
    quiet, end = 0, asyncio.get_running_loop().time() + LONGEST_QUEUE
    while quiet < QUIET_LOOKS and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(QUEUE_INTERVAL)
        # POLLHUP: another worker has shut it.
        quiet = 0 if any(found == select.POLLIN for _, found in waiting.poll(0)) else quiet + 1


def _refuse_new(listener: socket.socket) -> None:
    """Has the kernel refuse connections to the socket, and keep those that wait to be accepted.

    It is bound to a network interface (SO_BINDTODEVICE) by which its clients do not come. Anybody may do that since
    Linux 5.7; on an older one nothing changes.
    """
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    others = [name for _, name in socket.if_nameindex() if (name == "lo") != _is_local(listener)]
    if others:
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, others[0].encode())


def _is_local(listener: socket.socket) -> bool:
    """Whether no other host reaches the socket."""
    is_ip = listener.family in (socket.AF_INET, socket.AF_INET6)
    return not is_ip or ip_address(listener.getsockname()[0]).is_loopback


def _is_bound(listener: socket.socket) -> bool:
    """Whether the socket is bound to an interface, as `_refuse_new` leaves it, which only a right could undo."""
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).strip(b"\0") != b""


def _is_another_server() -> bool:
    """Whether this process is a worker of another server than Hypercorn, by the function that it was started with."""
    target = getattr(multiprocessing.current_process(), "_target", None)
    return getattr(target, "__module__", "hypercorn").partition(".")[0] != "hypercorn"
