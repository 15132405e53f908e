"""A TCP proxy that hands on each piece of data after a delay, as a network would: python -m benchmarks.delay."""

import argparse
import asyncio
from typing import cast

import uvloop


class End(asyncio.Protocol):
    """One side of a connection; what comes in goes to the other side `delay` seconds later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.other: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._later(lambda other: other.write(data))

    def connection_lost(self, _error: Exception | None) -> None:
        self._later(lambda other: other.close())

    def _later(self, do: object) -> None:
        assert callable(do)
        asyncio.get_running_loop().call_later(
            self.delay, lambda: do(self.other.result()) if self.other.done() else None
        )


async def serve(port: int, to: int, delay: float) -> None:
    """Listens on 127.0.0.1 for ever."""
    loop = asyncio.get_running_loop()

    async def connect(near: End) -> None:
        far = End(delay)
        transport, _ = await loop.create_connection(lambda: far, "127.0.0.1", to)
        assert near.transport is not None
        near.other.set_result(transport)
        far.other.set_result(near.transport)

    connecting = set()

    class Near(End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            connecting.add(asyncio.create_task(connect(self)))

    server = await loop.create_server(lambda: Near(delay), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen")
    parser.add_argument("--to", type=int, required=True, help="the port on 127.0.0.1 that it stands before")
    parser.add_argument("--delay", type=float, default=0.002, help="seconds, each way")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.to, given.delay))
