"""A TCP proxy between a service and its database, which delays data as a network does, or cuts a connection at a
chosen point of the protocol.

It knows the protocol's packets (3 bytes of length, 1 of sequence) and its commands:
https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html
It runs in a test's event loop, or as a process of its own: python -m harness.proxy.
"""

import argparse
import asyncio
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import uvloop

from harness.processes import Hypercorn, free_port, stop, wait_until
from service.platform.settings import ROOT

COM_QUERY = 3
ERROR_DURING_COMMIT = 1180
LOGIN = "login"
"""What a client sends before its first command."""

Moment = Literal["before", "within", "sent", "answered", "refused", "silent", "stalled"]
"""before, within: the command does not reach the server whole. sent: it does, and the connection ends before an answer.
answered: the answer comes, and is not handed on. refused: like answered, with an error in its stead. silent: like
answered, but the server's side stays open. stalled: the command is held back until `release`, while the client's side
ends."""


@dataclass
class Cut:
    """Where the next connection that sends such a statement is cut; after `results` packets of the answer, if given.

    `statement` is a part of it, without the quotes that a name may have.
    """

    statement: str
    moment: Moment = "answered"
    results: int = 0


@dataclass
class Proxy:
    """`cuts` are done one after the other; without any, all data is forwarded `delay` seconds later, each way."""

    port: int
    delay: float = 0.0
    cuts: list[Cut] = field(default_factory=list)
    open: int = 0
    held: list[tuple[bytes, asyncio.StreamWriter]] = field(default_factory=list)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    """To the server, of the connections that are open."""
    clients: set[asyncio.StreamWriter] = field(default_factory=set)

    def reset(self) -> None:
        """Resets the clients' connections, as a load balancer or firewall does with those that it has forgotten."""
        for writer in self.clients:
            connected: socket.socket = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def release(self) -> None:
        """Forwards the held-back data, if the server still accepts it."""
        for packet, writer in self.held:
            writer.write(packet)

    def later(self, do: Callable[[], None]) -> None:
        """Calls it after the delay, in the order of the calls."""
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, do)
        else:
            do()

    def close(self, writer: asyncio.StreamWriter) -> None:
        """Ends a connection to the server."""
        self.writers.discard(writer)
        writer.close()

    def _matches(self, packet: bytes, logged_in: bool) -> bool:
        if not self.cuts:
            return False
        statement = self.cuts[0].statement
        return statement.encode() in packet[5:].replace(b"`", b"") if logged_in else statement == LOGIN


@asynccontextmanager
async def proxy(to: int, *, port: int = 0, delay: float = 0.0) -> AsyncIterator[Proxy]:
    """Listens on 127.0.0.1 for the length of the block, and forwards to 127.0.0.1:`to`; port 0: any that is free."""
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        here.open += 1
        here.clients.add(writer)
        try:
            await _serve(here, to, reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            here.open -= 1
            here.clients.discard(writer)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", port, backlog=1024)
    here = Proxy(server.sockets[0].getsockname()[1], delay)
    try:
        yield here
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for writer in here.writers.copy():
            here.close(writer)


@contextmanager
def delayed(to: int, delay: float) -> Iterator[int]:
    """Runs a proxy in a process of its own that delays all data by so many seconds each way; gives its port."""
    port = free_port()
    options = ["--port", str(port), "--to", str(to), "--delay", str(delay)]
    process = subprocess.Popen([sys.executable, "-m", "harness.proxy", *options], cwd=ROOT)
    server = Hypercorn(process, port, Path(os.devnull))
    try:
        wait_until(server.accepts, process=process)
        yield port
    finally:
        stop(process)


async def _serve(here: Proxy, to: int, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    server, to_server = await asyncio.open_connection("127.0.0.1", to)
    here.writers.add(to_server)
    answers = asyncio.create_task(_forward(here, server, to_client))
    logged_in = keep = False
    try:
        while True:
            packet = await _packet(client)
            logged_in = logged_in or (packet[3] == 0 and packet[4] == COM_QUERY)
            if not here._matches(packet, logged_in):
                here.later(partial(_write, to_server, packet))
                continue
            cut = here.cuts.pop(0)
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            keep = await _cut(here, cut, packet, (server, to_server), to_client)
            return
    finally:
        answers.cancel()
        if not keep:
            here.later(partial(here.close, to_server))


async def _cut(
    here: Proxy,
    cut: Cut,
    packet: bytes,
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    to_client: asyncio.StreamWriter,
) -> bool:
    """Does what the cut says; returns whether the server's side is to stay open."""
    from_server, to_server = server
    if cut.moment == "stalled":
        here.held.append((packet, to_server))
        return True
    if cut.moment != "before":
        to_server.write(packet[: len(packet) // 2] if cut.moment == "within" else packet)
        await to_server.drain()
    if cut.moment in {"answered", "refused", "silent"}:
        for _ in range(cut.results):
            to_client.write(await _packet(from_server))
        await to_client.drain()
        withheld = await _packet(from_server)
        if cut.moment == "refused":
            error = b"\xff" + ERROR_DURING_COMMIT.to_bytes(2, "little") + b"#HY000Got error 5 during COMMIT"
            to_client.write(len(error).to_bytes(3, "little") + withheld[3:4] + error)
            await to_client.drain()
    if cut.moment == "silent":
        here.held.append((b"", to_server))
        return True
    return False


async def _forward(here: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            here.later(partial(_write, writer, data))
    here.later(writer.close)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():  # it may have ended during the delay: uvloop raises then
        writer.write(data)


async def _packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(int.from_bytes(head[:3], "little"))


async def _forward_for_ever(port: int, to: int, delay: float) -> None:
    async with proxy(to, port=port, delay=delay):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m harness.proxy", description="Delays all data on its way.")
    parser.add_argument("--port", type=int, required=True, help="where to listen")
    parser.add_argument("--to", type=int, required=True, help="the port on 127.0.0.1 to forward to")
    parser.add_argument("--delay", type=float, default=0.001, help="seconds, each way (0.001)")
    given = parser.parse_args()
    uvloop.run(_forward_for_ever(given.port, given.to, given.delay))
