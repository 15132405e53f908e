"""nginx with the root's nginx.conf in front of small upstreams with a broken service's faults."""

import http.client
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from types import MappingProxyType

import psutil

from harness.processes import for_each, free_port, stop, wait_until
from service.platform.settings import ROOT

PATH = f"{os.environ['PATH']}:/usr/sbin"  # where Debian keeps nginx


@dataclass(frozen=True)
class Request:
    """A request as it came to the upstream."""

    method: str
    target: str
    headers: Message
    body: bytes


Respond = Callable[[socket.socket, Request], None]
"""Answers the request, or not. The connection is closed when it raises ConnectionError."""


def answer(text: str = "fine", status: str = "200 OK", **headers: str) -> Respond:
    """Returns a handler that answers each request so."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())

    def respond(connection: socket.socket, request: Request) -> None:
        body = "" if request.method == "HEAD" else text
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n{lines}\r\n{body}".encode())

    return respond


def die(connection: socket.socket, request: Request) -> None:
    raise ConnectionError


def say_nothing(connection: socket.socket, request: Request) -> None:
    """Leaves the client waiting."""


@dataclass
class Upstream:
    """A server on 127.0.0.1 that records connections and requests; its handler answers them."""

    respond: Respond
    listener: socket.socket
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(ConnectionError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                method, target, _ = line.decode().split()
                headers = http.client.parse_headers(stream)
                request = Request(method, target, headers, stream.read(int(headers.get("Content-Length", 0))))
                self.requests.append(request)
                self.respond(connection, request)


@contextmanager
def upstream(respond: Respond | None = None, port: int = 0) -> Iterator[Upstream]:
    """Runs an upstream until the end of the block."""
    server = Upstream(respond or answer(), socket.create_server(("127.0.0.1", port)))
    thread = threading.Thread(target=server.accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        thread.join()


@dataclass(frozen=True)
class Answer:
    """A response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    port: int
    output: Path
    tls_port: int = 0

    def get(self, target: str = "/", method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        """Sends a request on a connection of its own; in the headers' names _ stands for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, names)
            response = connection.getresponse()
            found = [name.lower() for name, _ in response.getheaders()]
            assert len(found) == len(set(found)), f"a header came twice: {found}"
            return Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read().decode())
        finally:
            connection.close()

    def exchange(self, raw: bytes) -> bytes:
        """Sends the bytes on a connection of their own and returns all that comes back until it is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(raw)
            received = b""
            try:
                while data := connection.recv(65536):
                    received += data
            except ConnectionResetError:
                pass
            return received

    def log(self) -> list[dict[str, object]]:
        """Returns all lines, which are JSON objects; those of different workers in any order."""
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def access_log(self) -> list[dict[str, object]]:
        """Returns the lines of requests. A line comes up to a second after its request was answered."""
        return [line for line in self.log() if line["event"] == "request"]


def workers_of(directory: Path) -> list[psutil.Process]:
    """Returns the worker processes of the nginx with that prefix; its master's other child makes JSON of its errors."""
    children = psutil.Process(int((directory / "nginx.pid").read_text())).children()
    return [child for child, name in for_each(children, lambda child: (child, child.name())) if name == "nginx"]


def path_with(processors: int, directory: Path) -> str:
    """Returns a PATH on which nproc(1) prints so many processors, made in the directory."""
    nproc = directory / "bin/nproc"
    nproc.parent.mkdir(exist_ok=True)
    nproc.write_text(f"#!/bin/sh\necho {processors}\n")
    nproc.chmod(0o755)
    return f"{nproc.parent}:{PATH}"


def render(directory: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Runs deploy/nginx/render with these settings only."""
    return subprocess.run(
        [ROOT / "deploy/nginx/render", directory], env={"PATH": PATH, **settings}, capture_output=True, text=True
    )


def tls(directory: Path, certificates: Path, port: int) -> dict[str, str]:
    """Returns the settings by which nginx serves over TLS on that port; the folder `acme` is for challenges."""
    (directory / "acme").mkdir(exist_ok=True)
    return {
        "LISTEN_TLS": f"127.0.0.1:{port}",
        "HTTPS_PORT": str(port),
        "CERTIFICATES": str(certificates),
        "CHALLENGES": str(directory / "acme"),
    }


@contextmanager
def nginx(
    directory: Path,
    *upstreams: str,
    edit: Mapping[str, str] = MappingProxyType({}),
    stdout: int | None = None,
    certificates: Path | None = None,
    **settings: str,
) -> Iterator[Nginx]:
    """Runs nginx in front of the upstreams until the end of the block, with `edit`ed times if a test cannot wait.

    The access log goes to the file descriptor `stdout` if there is one. With the folder `certificates` it has TLS.
    """
    port, tls_port = free_port(), free_port()
    if certificates:
        settings |= tls(directory, certificates, tls_port)
    rendered = render(directory, LISTEN=f"127.0.0.1:{port}", UPSTREAM=",".join(upstreams), **settings)
    assert rendered.returncode == 0, rendered.stderr
    for old, new in edit.items():
        files = [directory / "nginx.conf", *directory.glob("rendered/*.conf")]
        edited = {path: text.replace(old, new) for path in files if old in (text := path.read_text())}
        assert edited, f"{old} is in none of nginx's files"
        for path, text in edited.items():
            path.unlink()  # nginx.conf is a link
            path.write_text(text)
    output = directory / "output"
    with output.open("a") as file:  # nginx writes to it in two ways
        command = [ROOT / "deploy/nginx/foreground", directory]
        process = subprocess.Popen(command, stdout=stdout or file, stderr=file, env={**os.environ, "PATH": PATH})
    try:
        pid = directory / "nginx.pid"  # which comes a little later
        wait_until(lambda: _listens(port) and pid.exists() and pid.read_text(), process=process, log=output)
        yield Nginx(port, output, tls_port)
    finally:
        stop(process)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
