"""What Prometheus cannot ask the service about: backups, disks, the certificate that clients see, and nginx.

    [LISTEN=ADDRESS:PORT] [BACKUP_DIRECTORY=FOLDER] [DATA_DIRECTORY=FOLDER] [TLS_ADDRESS=HOST:PORT] [NGINX_STATUS=URL]
    [SERVICE_SOCKET=PATH] python -m deploy.exporter

Where the service listens on a Unix socket, which Prometheus cannot reach, /service has the service's own metrics.

A part that is not named is left out. One that fails has `exporter_up` 0 and no metrics; the log says why, and when it
is over.
docs/metrics.md has all names; those of nginx and the certificate are those of nginx-prometheus-exporter and the
blackbox exporter.
"""

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry, Metric, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from deploy.backup.errors import Refused
from deploy.backup.place import Place, contiguous

TIMEOUT = 3.0
"""Seconds within which nginx and the service must answer."""

FROM_SERVICE = "/service"

_STATUS = re.compile(
    r"Active connections: (?P<active>\d+) \n"
    r"server accepts handled requests\n (?P<accepted>\d+) (?P<handled>\d+) (?P<requests>\d+) \n"
    r"Reading: (?P<reading>\d+) Writing: (?P<writing>\d+) Waiting: (?P<waiting>\d+)"
)
"""https://nginx.org/en/docs/http/ngx_http_stub_status_module.html"""


def backups(directory: Path) -> Iterator[Metric]:
    """Yields when the last backup was made and the last one checked, and up to when the logs reach: 0 if never."""
    place = Place(directory)
    all_of_them = place.backups()
    checked = [backup for backup in all_of_them if place.check_of(backup)]
    reached = [log.ends for backup in all_of_them for log in contiguous(place.logs(backup.server), backup.begin.number)]
    for name, documentation, moments in (
        ("backup_last", "When the last backup was made", [backup.moment for backup in all_of_them]),
        ("backup_last_checked", "When the last backup that was checked was made", [one.moment for one in checked]),
        ("backup_logs_end", "Up to when binary logs are copied", reached),
    ):
        value = max((moment.timestamp() for moment in moments), default=0.0)
        yield GaugeMetricFamily(f"{name}_timestamp_seconds", f"{documentation}, in seconds since 1970.", value)
    yield GaugeMetricFamily("backup_bytes", "Size of all backups and copied logs.", place.size())


def disks(folders: dict[str, Path]) -> Iterator[Metric]:
    """Yields the size of each folder's disk, and what is free there."""
    size = GaugeMetricFamily("disk_size_bytes", "Size of the disk, without what is kept for root.", labels=["disk"])
    free = GaugeMetricFamily("disk_free_bytes", "What is free on the disk.", labels=["disk"])
    for name, folder in folders.items():
        usage = shutil.disk_usage(folder)
        size.add_metric([name], usage.used + usage.free)  # as df has it
        free.add_metric([name], usage.free)
    yield from (size, free)


def certificate(address: str) -> Iterator[Metric]:
    """Yields when the certificate that nginx shows ends. Whether it is trusted is for its clients to say."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        shown = x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")
    end = shown.not_valid_after_utc.timestamp()
    yield GaugeMetricFamily("probe_ssl_earliest_cert_expiry", "When the certificate ends, in seconds since 1970.", end)


def nginx(url: str) -> Iterator[Metric]:
    """Yields what nginx counts."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  # as the deployment has it
        status = _STATUS.search(answer.read().decode())
    if status is None:
        raise ValueError(f"{url} does not answer as nginx's stub_status does")
    for name in "active", "accepted", "handled", "reading", "writing", "waiting":
        kind = CounterMetricFamily if name in ("accepted", "handled") else GaugeMetricFamily
        yield kind(f"nginx_connections_{name}", f"Connections of clients: {name}.", int(status[name]))
    yield CounterMetricFamily("nginx_http_requests", "Requests of clients.", int(status["requests"]))


class Exporter(Collector):
    """Asks each part at each scrape."""

    def __init__(self, parts: dict[str, Callable[[], Iterator[Metric]]]) -> None:
        self._parts = parts
        self._said: dict[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("exporter_up", "1 if the part could be asked, else 0.", labels=["part"])
        for name, part in self._parts.items():
            reason = ""
            try:
                yield from list(part())
            except (OSError, http.client.HTTPException, Refused, ValueError) as error:
                reason = str(error) or type(error).__name__
            up.add_metric([name], not reason)
            if reason != self._said.get(name, ""):
                log("warning" if reason else "info", f"{name}: {reason or 'can be asked again'}")
            self._said[name] = reason
        yield up


def log(level: str, event: str) -> None:
    """Writes a line as the service does (docs/logs.md)."""
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"time": time, "level": level, "event": event, "logger": "deploy.exporter", "worker": os.getpid()}
    print(json.dumps(line), file=sys.stderr, flush=True)


def parts(settings: dict[str, str]) -> dict[str, Callable[[], Iterator[Metric]]]:
    """Returns the parts that the settings name."""
    found: dict[str, Callable[[], Iterator[Metric]]] = {}
    folders = {"data": settings.get("DATA_DIRECTORY"), "backups": settings.get("BACKUP_DIRECTORY")}
    named = {name: Path(folder) for name, folder in folders.items() if folder}
    if named:
        found["disks"] = lambda: disks(named)
    if "backups" in named:
        found["backups"] = lambda: backups(named["backups"])
    if address := settings.get("TLS_ADDRESS"):
        found["certificate"] = lambda: certificate(address)
    if url := settings.get("NGINX_STATUS"):
        found["nginx"] = lambda: nginx(url)
    return found


def service_metrics(path: str) -> tuple[int, str, bytes]:
    """Asks the service on this Unix socket; returns status, content type and body, or 503 and why there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(path)
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with http.client.HTTPResponse(connection) as answer:
                answer.begin()
                return answer.status, answer.headers.get("Content-Type", "text/plain"), answer.read()
        except (OSError, http.client.HTTPException) as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"The service does not answer: {error}\n".encode()


def handler(registry: CollectorRegistry, service_socket: str) -> type[MetricsHandler]:
    """Returns the class that answers requests: /service by the service's own metrics, all else by the registry's."""

    class Handler(MetricsHandler):
        def do_GET(self) -> None:  # noqa: N802
            if not service_socket or self.path != FROM_SERVICE:
                super().do_GET()
                return
            status, content_type, body = service_metrics(service_socket)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    Handler.registry = registry
    return Handler


def main() -> None:
    registry = CollectorRegistry()
    registry.register(Exporter(parts(dict(os.environ))))
    host, _, port = os.environ.get("LISTEN", "127.0.0.1:9101").rpartition(":")
    answers = handler(registry, os.environ.get("SERVICE_SOCKET", ""))
    ThreadingHTTPServer((host, int(port)), answers).serve_forever()


if __name__ == "__main__":
    main()
