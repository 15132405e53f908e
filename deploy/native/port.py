"""Says whether a program can listen on a port: fails with the system's reason if not. Alone, prints a free port."""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", nargs="?", help="127.0.0.1, for one")
    parser.add_argument("port", nargs="?")
    arguments = parser.parse_args()
    if arguments.port is None:
        print(free_port())
        return
    try:
        listen(arguments.address, int(arguments.port))
    except (OSError, ValueError, OverflowError) as error:
        sys.exit(getattr(error, "strerror", None) or str(error))


if __name__ == "__main__":
    main()
