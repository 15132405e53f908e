"""The proxy between a service and its database."""

import asyncio
import time

from harness.proxy import proxy

PACKETS = b"\x01\x00\x00\x00a", b"\x02\x00\x00\x00bc"


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


async def test_a_delay_holds_data_back_each_way_and_keeps_its_order() -> None:
    delay = 0.05
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, proxy(server.sockets[0].getsockname()[1], delay=delay) as delaying:
        reader, writer = await asyncio.open_connection("127.0.0.1", delaying.port)
        sent = time.monotonic()
        for packet in PACKETS:
            writer.write(packet)
        assert await reader.readexactly(len(b"".join(PACKETS))) == b"".join(PACKETS)
        assert time.monotonic() - sent >= 2 * delay
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
