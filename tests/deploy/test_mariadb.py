import shutil
import subprocess
from pathlib import Path

import pymysql
import pytest

from harness.databases import DatabaseServer, private_mariadb
from harness.processes import free_port, stop, wait_until
from service.platform.settings import ROOT

pytestmark = pytest.mark.native


def test_two_private_servers_do_not_share_a_temporary_directory(tmp_path: Path) -> None:
    """At its start a server removes what looks like its temporary tables, and the other would crash without them."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with private_mariadb(one) as first, private_mariadb(other) as second:
        directories = [server.execute("SELECT @@tmpdir")[0][0] for server in (first, second)]
    assert directories == [f"{one}/mariadb.tmp", f"{other}/mariadb.tmp"]


def test_a_configuration_that_everybody_may_write_is_read_all_the_same(tmp_path: Path) -> None:
    """MariaDB skips such a file in silence; a clone under umask 0 has one."""
    copy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy/mariadb", copy)
    (copy / "tally.cnf").chmod(0o666)
    port, log = free_port(), tmp_path / "log"
    (tmp_path / "root.sql").write_text("ALTER USER 'root'@'localhost' IDENTIFIED BY 'r';\n")
    with log.open("w") as file:
        command: list[str | Path] = [copy / "start", tmp_path / "data", str(port), tmp_path / "root.sql"]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    server = DatabaseServer("127.0.0.1", port, "root", "r", is_root=True)
    try:
        wait_until(lambda: answers(server), process=process, log=log)
        assert server.execute("SELECT @@log_bin, @@sync_binlog") == [(1, 1)]
    finally:
        stop(process)


def answers(server: DatabaseServer) -> bool:
    try:
        server.execute("SELECT 1")
    except pymysql.err.OperationalError:
        return False
    return True
