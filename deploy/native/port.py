"""Says whether a program can listen on a port, and finds a free one.

`port.py ADDRESS PORT` fails with the system's reason if nobody can; `port.py` alone prints a free port of 127.0.0.1.
"""

import random
import socket
import sys


def listen(address: str, port: int) -> None:
    """Raises OSError, ValueError or OverflowError if `port` cannot be listened on now."""
    if port == 0:
        raise ValueError("0 is not a port")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()


def free_port() -> int:
    """Returns a port below those of outgoing connections, one of which could take it while MariaDB restarts."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311
        try:
            listen("127.0.0.1", port)
        except OSError:
            continue
        return port


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(free_port())
    else:
        try:
            listen(sys.argv[1], int(sys.argv[2]))
        except (OSError, ValueError, OverflowError) as error:
            sys.exit(getattr(error, "strerror", None) or str(error))
