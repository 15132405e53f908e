"""Concurrent GET requests over plain streams, since httpx would take more processor time than the service."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any


async def get_at_once(
    urls: Sequence[tuple[str, int]],
    count: int,
    connections: int,
    until: "asyncio.Task[Any] | None" = None,
    pause: float = 0.0,
) -> list[tuple[int, str]]:
    """Sends `count` GET requests for `/` on `connections` kept-alive connections, in turn to the (host, port) given.

    Where `until` is given, goes on as long as that task takes. Returns status and body of each answer; a request whose
    connection was lost has status 0 and is not sent again. Each connection waits `pause` seconds between two requests.
    """
    left = itertools.chain(range(count), iter(until.done, True) if until else ())
    answers: list[tuple[int, str]] = []

    async def one_connection(host: str, port: int) -> None:
        for _ in left:
            try:
                reader, writer = await asyncio.open_connection(host, port)
            except OSError:
                answers.append((0, ""))
                continue
            try:
                is_kept = True  # nginx closes a connection after 1,000 requests
                while is_kept:
                    status, body, is_kept = await _exchange(reader, writer, host)
                    answers.append((status, body))
                    await asyncio.sleep(pause)
                    is_kept = is_kept and next(left, None) is not None
            except (OSError, asyncio.IncompleteReadError):
                answers.append((0, ""))
            finally:
                writer.close()

    await asyncio.gather(*(one_connection(*urls[i % len(urls)]) for i in range(connections)))
    return answers


async def get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, key: str | None = None
) -> tuple[int, str]:
    """Sends one GET request for `/`, with an Idempotency-Key or none; returns the answer's status and body.

    Raises OSError or EOFError where the connection is lost.
    """
    status, body, _ = await _exchange(reader, writer, host, f"Idempotency-Key: {key}\r\n" if key else "")
    return status, body


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, header: str = ""
) -> tuple[int, str, bool]:
    """Does what `get` does; returns whether the server keeps the connection, too."""
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n{header}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    body = (await reader.readexactly(length)).decode()
    return int(head.split(maxsplit=2)[1]), body, "\r\nconnection: close\r\n" not in head
