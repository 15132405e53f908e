"""Asks a server for a path: prints what is wrong, and ends with 1, unless it answers 2xx.

Needs nothing but Python. The server is a Unix socket's path, or an address and a port.
"""

import argparse
import http.client
import socket
import sys


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("server", help="/run/socket, or 127.0.0.1")
    parser.add_argument("port", type=int, nargs="?")
    given = parser.parse_args()
    connection = (
        _Connection(given.server)
        if given.port is None
        else http.client.HTTPConnection(given.server, given.port, timeout=10)
    )
    try:
        connection.request("GET", given.path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"{given.path}: {error}")
    if answer.status // 100 != http.HTTPStatus.OK // 100:
        sys.exit(f"{given.path}: HTTP Error {answer.status}: {body.decode(errors='replace').strip()}")


if __name__ == "__main__":
    main()
