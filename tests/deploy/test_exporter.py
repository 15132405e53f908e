import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.backup.place import DATA, FORMAT, Backup, Check, Packed, Place, Position
from harness.certificates import Authority
from harness.nginx import Request, Upstream, answer, nginx, upstream
from harness.processes import free_port, is_ok, stop, wait_until
from service.platform.settings import ROOT
from tests.deploy.test_certificate import store

pytestmark = pytest.mark.nginx

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


@contextmanager
def exporter(directory: Path, **settings: str) -> Iterator[str]:
    """Runs it; returns its address."""
    port = free_port()
    environment = {"PATH": "", "LISTEN": f"127.0.0.1:{port}", **settings}
    with (directory / "errors").open("w") as errors:
        command = [sys.executable, "-m", "deploy.exporter"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors)
    try:
        wait_until(lambda: is_ok(port, "/metrics"), process=process, log=directory / "errors")
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        stop(process)


def exposed(url: str) -> dict[str, float]:
    """Returns the samples by their names and labels."""
    families = text_string_to_metric_families(httpx.get(url).text)
    return {f"{one.name}{''.join(one.labels.values())}": one.value for family in families for one in family.samples}


def add_backup(directory: Path, moment: datetime) -> Backup:
    name = f"{moment:%Y%m%dT%H%M%S.%fZ}"
    place = Position("binlog.000001", 4)
    backup = Backup(FORMAT, name, moment, "MySQL", "9.7.4", "server", place, place, Packed(3, "", 3))
    (directory / name).mkdir()
    (directory / name / "backup.json").write_bytes(msgspec.json.encode(backup))
    (directory / name / DATA).write_bytes(b"abc")
    return backup


def test_backups_logs_disks_the_certificate_and_nginx_are_shown(tmp_path: Path) -> None:
    backups, certificates = tmp_path / "backups", tmp_path / "certificates"
    for folder in backups, certificates:
        folder.mkdir()
    store(certificates, *Authority(tmp_path, "authority").make("first", days=20))
    place, log = Place(backups), tmp_path / "binlog.000001"
    checked = add_backup(backups, NOON)
    add_backup(backups, NOON + timedelta(hours=1))
    place.note_check(checked.name, Check(NOON, "0001", 3))
    log.write_bytes(b"log")
    place.add_log(log, "server", NOON, NOON + timedelta(hours=2))
    status = free_port()
    with (
        upstream(answer()) as service,
        nginx(tmp_path, service.address, certificates=certificates, LISTEN_STATUS=f"127.0.0.1:{status}") as proxy,
        exporter(
            tmp_path,
            DATA_DIRECTORY=str(tmp_path),
            BACKUP_DIRECTORY=str(backups),
            TLS_ADDRESS=f"127.0.0.1:{proxy.tls_port}",
            NGINX_STATUS=f"http://127.0.0.1:{status}",
        ) as url,
    ):
        found = exposed(url)
        text = httpx.get(url).text
    noon = NOON.timestamp()
    assert found["backup_last_timestamp_seconds"] == noon + 3_600
    assert found["backup_last_checked_timestamp_seconds"] == noon
    assert found["backup_logs_end_timestamp_seconds"] == noon + 7_200
    assert found["backup_bytes"] == place.size()
    df = ["df", "--output=pcent", str(tmp_path)]
    said_by_df = subprocess.run(df, stdout=subprocess.PIPE, text=True, check=True).stdout
    full = 1 - found["disk_free_bytesdata"] / found["disk_size_bytesdata"]
    assert 100 * full == pytest.approx(int(said_by_df.split()[-1].rstrip("%")), abs=2)
    assert abs(found["probe_ssl_earliest_cert_expiry"] - datetime.now(UTC).timestamp() - 20 * 86_400) < 600
    assert found["nginx_connections_active"] >= 1
    assert found["nginx_http_requests_total"] >= 1
    parts = "disks", "backups", "certificate", "nginx"
    assert [found[f"exporter_up{part}"] for part in parts] == [1] * 4
    _, _, documented = (ROOT / "docs/metrics.md").read_text().partition("## What the exporter says")
    types = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    assert sorted(re.findall(r"^\| `(\w+)` \| (\w+) \|", documented, re.MULTILINE)) == sorted(types)


def wrong(connection: socket.socket, request: Request) -> None:
    connection.sendall(b"no HTTP\r\n\r\n")


def test_without_any_backup_the_last_was_never_and_a_part_that_fails_is_shown_and_said_until_it_is_well(
    tmp_path: Path,
) -> None:
    (tmp_path / "backups").mkdir()
    nowhere = tmp_path / "nowhere"
    with (
        upstream(wrong) as service,
        exporter(
            tmp_path,
            DATA_DIRECTORY=str(nowhere),
            BACKUP_DIRECTORY=str(tmp_path / "backups"),
            NGINX_STATUS=f"http://{service.address}",
            TLS_ADDRESS=f"127.0.0.1:{free_port()}",
        ) as url,
    ):
        found = [exposed(url) for _ in range(2)][-1]
        nowhere.mkdir()
        assert exposed(url)["exporter_updisks"] == 1
    assert found["backup_last_timestamp_seconds"] == found["backup_logs_end_timestamp_seconds"] == 0
    up = {name: value for name, value in found.items() if name.startswith("exporter_up")}
    assert up == {"exporter_updisks": 0, "exporter_upbackups": 1, "exporter_upcertificate": 0, "exporter_upnginx": 0}
    assert not [name for name in found if name.startswith(("disk", "nginx", "probe"))]
    said = [json.loads(line) for line in (tmp_path / "errors").read_text().splitlines()]
    assert [(line["level"], line["event"].split(": ")[0]) for line in said] == [
        ("warning", "disks"),
        ("warning", "certificate"),
        ("warning", "nginx"),
        ("info", "disks"),
    ]
    assert [line["event"] for line in said[2:]] == ["nginx: no HTTP\r\n", "disks: can be asked again"]


def test_a_backup_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    backup = add_backup(tmp_path / "backups", NOON)
    (tmp_path / "backups" / backup.name / "backup.json").write_text("{")
    with exporter(tmp_path, BACKUP_DIRECTORY=str(tmp_path / "backups")) as url:
        found = exposed(url)
    assert (found["exporter_upbackups"], "backup_last_timestamp_seconds" in found) == (0, False)
    assert "cannot be read" in (tmp_path / "errors").read_text()


def test_what_a_service_on_a_unix_socket_says_is_passed_on_or_that_it_does_not_answer(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, exporter(tmp_path, SERVICE_SOCKET=path) as url:
        address = url.replace("/metrics", "/service")
        refused = httpx.get(address)
        listener.bind(path)
        listener.listen()
        service = Upstream(answer("up 1\n", Content_Type="text/plain; version=1.0.0"), listener)
        threading.Thread(target=service.accept, daemon=True).start()
        shown = httpx.get(address)
        assert "exporter_up" in httpx.get(url).text
    assert (refused.status_code, "does not answer" in refused.text) == (503, True)
    assert (shown.status_code, shown.text) == (200, "up 1\n")
    assert shown.headers["Content-Type"] == "text/plain; version=1.0.0"
    assert [request.target for request in service.requests] == ["/metrics"]
