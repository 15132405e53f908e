from pathlib import Path

import pytest

from harness.databases import private_mariadb

pytestmark = pytest.mark.native


def test_two_private_servers_do_not_share_a_temporary_directory(tmp_path: Path) -> None:
    """At its start a server removes what looks like its temporary tables, and the other would crash without them."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with private_mariadb(one) as first, private_mariadb(other) as second:
        directories = [server.execute("SELECT @@tmpdir")[0][0] for server in (first, second)]
    assert directories == [f"{one}/mariadb.tmp", f"{other}/mariadb.tmp"]
