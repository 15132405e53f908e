"""A server that keeps what is sent to it by HTTP: in the place of a collector of traces, or of Sentry."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@dataclass
class Receiver:
    """Answers 200 to every POST."""

    port: int = 0
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    """By path, unpacked."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Runs one on 127.0.0.1 until the end of the block."""
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = {"Content-Encoding": self.headers.get("Content-Encoding", "identity")}
            received.bodies.setdefault(self.path, []).append(httpx.Response(200, headers=packed, content=body).content)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()
