"""Waits for `./run up` until the service is ready and nginx passes on what it answers; else says what is wrong.

A program that ends meanwhile fails the start at once, although the supervisor would go on to start it: what is wrong at
the start is a setting or a file, and the log's end says which.
"""

import argparse
import http.client
import json
import re
import time
from pathlib import Path

LIMIT = 60.0  # seconds
LOGS = Path(".run/logs")


def wait_until_ready(service_port: int, nginx_address: str, nginx_port: int, logged: int) -> None:
    """`logged`: the bytes that supervisord.log had before this start. Raises SystemExit with what is wrong."""
    end = time.monotonic() + LIMIT
    while True:
        if ended := re.search(rb"(?:exited: |spawnerr: )(?!migrate \(exit status 0)(\w+)", _supervisor_log(logged)):
            name = ended[1].decode()
            raise SystemExit(f"{name} ended. {_log_end(name)}")
        wrong = _wrong("127.0.0.1", service_port, "/readyz", "hypercorn") or _wrong(
            nginx_address, nginx_port, "/livez", "nginx"
        )
        if not wrong:
            return
        if time.monotonic() > end:
            raise SystemExit(f"After {LIMIT:g} s, {wrong}")
        time.sleep(0.05)


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


def _supervisor_log(start: int) -> bytes:
    with (LOGS / "supervisord.log").open("rb") as file:
        file.seek(start)
        return file.read()


def _log_end(name: str) -> str:
    path = LOGS / f"{name}.log"
    lines = path.read_text(errors="replace").splitlines()[-15:] if path.exists() else []
    return "\n".join([f"The end of {path}:", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("service_port", type=int, help="where Hypercorn listens on 127.0.0.1")
    parser.add_argument("nginx_address")
    parser.add_argument("nginx_port", type=int)
    parser.add_argument("--logged", type=int, default=0, metavar="BYTES", help="of supervisord.log before this start")
    arguments = parser.parse_args()
    wait_until_ready(arguments.service_port, arguments.nginx_address, arguments.nginx_port, arguments.logged)


if __name__ == "__main__":
    main()
