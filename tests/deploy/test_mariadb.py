import shutil
from pathlib import Path

import pytest

from harness.databases import private_mariadb
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
    with private_mariadb(tmp_path, program=copy / "start") as server:
        assert server.execute("SELECT @@log_bin, @@sync_binlog") == [(1, 1)]
