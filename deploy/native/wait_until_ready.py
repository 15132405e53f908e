"""Waits for `./run up` until the service is ready and nginx passes on what it answers; else says what is wrong.

A program that ends meanwhile fails the start at once, although the supervisor would go on to start it: what is wrong at
the start is a setting or a file, and the log's end says which.
"""

import argparse
import http.client
import json
import re
import sys
import time
from pathlib import Path

LIMIT = 60.0  # seconds
LOGS = Path(".run/logs")


def wait_until_ready(service_port: int, nginx_address: str, nginx_port: int) -> None:
    """Raises SystemExit with what is wrong."""
    begun = time.monotonic()
    while True:
        if ended := re.search(rb"(?:exited: |spawnerr: )(?!migrate \(exit status 0)(\w+)", _logged("supervisord")):
            name = ended[1].decode()
            raise SystemExit(f"{name} ended. {_log_end(name)}")
        step, wrong = _step(service_port, nginx_address, nginx_port)
        if not wrong:
            _show("")
            return
        if time.monotonic() > begun + LIMIT:
            _show("")
            raise SystemExit(f"After {LIMIT:g} s, {wrong}")
        _show(step, time.monotonic() - begun)
        time.sleep(0.05)


def _step(service_port: int, nginx_address: str, nginx_port: int) -> tuple[str, str]:
    """Returns what is waited for, and what is wrong until then: "" if nothing is."""
    wrong = _wrong("127.0.0.1", service_port, "/readyz", "hypercorn")
    if b"exited: migrate (exit status 0" not in _logged("supervisord"):
        return "1 of 3: the database starts and is migrated", wrong or "the migration has not ended"
    if wrong:
        return "2 of 3: the workers get ready", wrong
    return "3 of 3: nginx answers", _wrong(nginx_address, nginx_port, "/livez", "nginx")


def _show(step: str, seconds: float = 0.0) -> None:
    """Says what is waited for: on a terminal in one line, with the seconds so far, elsewhere once."""
    global _shown  # noqa: PLW0603
    if sys.stdout.isatty():
        print(f"\r\x1b[K-- {step}, {seconds:.0f} s" if step else "\r\x1b[K", end="", flush=True)
    elif step and step != _shown:
        print(f"-- {step}", flush=True)
    _shown = step


def _wrong(address: str, port: int, path: str, name: str) -> str:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        return f"{name} does not answer on {address}, port {port} ({error}). {_log_end(name)}"
    finally:
        connection.close()
    if response.status == http.HTTPStatus.OK:
        return ""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = ""
    return f"{name} answers {response.status} to {path}: {detail or _log_end(name)}"


def _logged(name: str) -> bytes:
    """Returns what a program has logged since the start."""
    path = LOGS / f"{name}.log"
    text = path.read_bytes() if path.exists() else b""
    before = _before.get(str(path), 0)
    return text[before:] if before <= len(text) else text  # a new file, where it was rotated


def _log_end(name: str) -> str:
    lines = _logged(name).decode(errors="replace").splitlines()[-15:]
    return "\n".join([f"The end of {LOGS / name}.log:", *lines])


_before: dict[str, int] = {}
"""The bytes that each log had before this start, by its path."""


_shown = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service_port", type=int, help="where Hypercorn listens on 127.0.0.1")
    parser.add_argument("nginx_address")
    parser.add_argument("nginx_port", type=int)
    parser.add_argument("--logged", type=Path, metavar="FILE", help="what `wc -c` said of the logs before this start")
    arguments = parser.parse_args()
    if arguments.logged:
        sizes = (line.split(maxsplit=1) for line in arguments.logged.read_text().splitlines())
        _before.update({name: int(size) for size, name in sizes})
    wait_until_ready(arguments.service_port, arguments.nginx_address, arguments.nginx_port)


if __name__ == "__main__":
    main()
