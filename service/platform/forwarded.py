"""The client's address and scheme from X-Forwarded-For and X-Forwarded-Proto, if a trusted proxy sent them.

nginx sets both headers and does not add to what a client sent. Hypercorn's own ProxyFixMiddleware believes whoever
connects, and copies the whole scope for each request.
"""

import asyncio
import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

LOOK_UP_INTERVAL = 1.0
"""Seconds between two look-ups of the host names, which a stranger's requests could otherwise cause without limit."""

UNIX_SOCKET = "unix:"
"""What stands for the peers of a Unix socket, which have no address: as in nginx's `set_real_ip_from`."""

PEERS = 1_024
"""How many peers are remembered, with whether they are in a trusted network: 8 us for each request spared."""

_OF_WEBSOCKETS = {"http": "ws", "https": "wss"}
"""A proxy names the scheme of the request that opens a WebSocket; ASGI has those of RFC 6455."""


class Forwarded:
    """ASGI middleware. `trusted` holds addresses, networks, `unix:` and host names, looked up when a new peer comes."""

    def __init__(self, app: Any, trusted: Iterable[str]) -> None:
        self._app = app
        self._networks = []
        self._names = []
        self._trusts_unix_sockets = False
        for one in trusted:
            if one == UNIX_SOCKET:
                self._trusts_unix_sockets = True
                continue
            try:
                self._networks.append(ip_network(one))
            except ValueError:
                self._names.append(one)
        self._in_networks = lru_cache(maxsize=PEERS)(self._look_in_networks)
        self._addresses: frozenset[str] = frozenset()
        self._looked_up = float("-inf")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            headers = dict(scope["headers"])
            address = headers.get(b"x-forwarded-for")
            if address is not None and await self._is_trusted(scope.get("client")):
                scheme = headers.get(b"x-forwarded-proto", scope["scheme"].encode()).decode("latin1")
                if scope["type"] == "websocket":
                    scheme = _OF_WEBSOCKETS.get(scheme, scheme)
                scope = {**scope, "client": (address.decode("latin1"), 0), "scheme": scheme}
        await self._app(scope, receive, send)

    async def _is_trusted(self, client: tuple[str, int] | None) -> bool:
        if client is None:
            return self._trusts_unix_sockets
        peer = client[0]
        if peer in self._addresses:
            return True
        try:
            if self._in_networks(peer):
                return True
        except ValueError:  # the peer of a Unix socket has no address
            return False
        await self._look_up()
        return peer in self._addresses

    def _look_in_networks(self, peer: str) -> bool:
        address = ip_address(peer)
        return any(address in network for network in self._networks)

    async def _look_up(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._names or loop.time() < self._looked_up + LOOK_UP_INTERVAL:
            return
        self._looked_up = loop.time()
        found = await asyncio.gather(
            *(loop.getaddrinfo(name, None, type=socket.SOCK_STREAM) for name in self._names),
            return_exceptions=True,
        )
        self._addresses = frozenset(
            str(entry[4][0]) for entries in found if not isinstance(entries, BaseException) for entry in entries
        )
