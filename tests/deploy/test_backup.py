"""Backups of a private MariaDB by the jobs alone: what is refused, what a stop leaves, what is kept, who may do it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.backup.binary_log import transactions
from harness.databases import DatabaseServer, new_database, private_mariadb
from harness.processes import wait_until
from service.platform.settings import ROOT

pytestmark = pytest.mark.native


@dataclass(frozen=True)
class Backups:
    """A server, a table in it, and the place where its backups are."""

    server: DatabaseServer
    database: str
    place: Path
    environment: dict[str, str]

    def begin(self, *arguments: str, under: tuple[str, ...] = (), **settings: str) -> "subprocess.Popen[str]":
        command = [*under, sys.executable, "-m", "deploy.backup", *arguments]
        environment = {**self.environment, "BACKUP_DIRECTORY": str(self.place), **settings}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **settings: str) -> str:
        """Runs a job to its good end, and returns what it printed."""
        process = self.begin(*arguments, under=(), **settings)
        printed, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return printed

    def refused(self, *arguments: str, under: tuple[str, ...] = (), **settings: str) -> str:
        """Runs a job that ends with one sentence, and returns that."""
        process = self.begin(*arguments, under=under, **settings)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1, errors
        *_, sentence = errors.splitlines()
        assert sentence.startswith("backup: ")
        assert sentence.endswith(".")
        assert "Traceback" not in errors
        return sentence

    def names(self) -> list[str]:
        """Returns the backups that are listed."""
        return [line.split()[0] for line in self.run("list").splitlines()[:-1]]

    def write(self) -> None:
        self.server.execute(f"INSERT INTO `{self.database}`.kept VALUES ()")

    def changed(self, directory: Path, **fields: object) -> "Backups":
        """Returns a copy of the place, in which the description of its only backup has other fields."""
        shutil.copytree(self.place, directory)
        (path,) = directory.glob("2*/backup.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return Backups(self.server, self.database, directory, self.environment)

    def check(self, name: str) -> None:
        """Notes the backup as one that was restored, as its check does."""
        (self.place / name / "checked.json").write_text(
            json.dumps({"moment": datetime.now(UTC).isoformat(), "revision": "0001", "tables": 1})
        )


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backups]:
    """A server without a backup."""
    directory = tmp_path_factory.mktemp("backup")
    with private_mariadb(directory) as server, new_database(server) as database:
        server.execute(f"CREATE TABLE `{database.name}`.kept (id INT PRIMARY KEY AUTO_INCREMENT)")
        (directory / "password").write_text(database.environment["DB_PASSWORD"])
        environment = {
            **os.environ,
            "DB_HOST": server.host,
            "DB_PORT": str(server.port),
            "BACKUP_DB_USERNAME": f"{database.environment['DB_USERNAME']}_b",
            "BACKUP_DB_PASSWORD_FILE": str(directory / "password"),
            "DATA_DIRECTORY": str(directory / "mariadb"),
        }
        yield Backups(server, database.name, directory / "none", environment)


@pytest.fixture(scope="module")
def backups(empty: Backups, tmp_path_factory: pytest.TempPathFactory) -> Backups:
    """One backup, and the binary logs since. A test that changes something makes a copy."""
    made = Backups(empty.server, empty.database, tmp_path_factory.mktemp("place"), empty.environment)
    made.write()
    made.run("take")
    made.write()
    made.run("logs")
    return made


@pytest.fixture
def place(empty: Backups, tmp_path: Path) -> Backups:
    """A place of the test's own, without a backup."""
    (tmp_path / "place").mkdir()
    return Backups(empty.server, empty.database, tmp_path / "place", empty.environment)


def unpack(backups: Backups, into: Path, *options: str, version: str | None = None) -> tuple[str, ...]:
    """Returns the arguments of the job that unpacks into a new directory."""
    into.mkdir(exist_ok=True)
    ((own,),) = backups.server.execute("SELECT VERSION()")
    return "unpack", str(into), "--version", version or own, *options


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("2020-01-01", "2020-01-01 00:00:00+00:00 is before the first backup"),
        ("2099-01-01T00:00:00+02:00", "2098-12-31 22:00:00+00:00 is after"),
        ("binlog.000001:4", "binlog.000001:4 is before the first backup"),
        ("binlog.000099:4", "binlog.000099:4 is in no binary log that was copied"),
        ("binlog.000002:5", "No transaction begins at binlog.000002:5"),
        ("yesterday", "'yesterday' is neither a moment like"),
    ],
)
def test_a_moment_that_cannot_be_reached_is_refused(backups: Backups, tmp_path: Path, to: str, sentence: str) -> None:
    assert sentence in backups.refused(*unpack(backups, tmp_path / "data", "--to", to))
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.rehearsal
def test_the_tools_that_the_document_names_copy_what_is_whole_and_nothing_else(
    backups: Backups, tmp_path: Path
) -> None:
    place = tmp_path / ".run/backups"
    place.parent.mkdir()
    made = backups.changed(place)
    for half in ".20260102T031700.000000Z/data.tar.gz", ".removed/backup.json":
        (place / half).parent.mkdir()
        (place / half).touch()
    own = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(tmp_path / "repository")}
    text = (ROOT / "docs/backup.md").read_text()
    by_rclone, by_restic = (
        next(line for line in text.splitlines() if line.startswith(tool)).replace("/srv/backups", str(place))
        for tool in ("rclone sync", "restic backup")
    )
    copied, restored = tmp_path / "copied", tmp_path / "restored"
    for command in (
        by_rclone.replace("remote:backups", str(copied)),
        "restic init",
        by_restic,
        f"restic restore latest --target {restored}",
    ):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=own)
    (restored,) = restored.rglob("backups")
    for directory in copied, restored:
        assert not list(directory.rglob(".*"))
        copy = Backups(made.server, made.database, directory, made.environment)
        assert copy.names() == backups.names()
        copy.run(*unpack(copy, tmp_path / f"{directory.name}-data"))


def test_a_backup_that_is_not_there_and_a_place_without_any_are_named(backups: Backups, place: Backups) -> None:
    into = place.place.parent / "data"
    assert "There is no backup nothing in" in backups.refused(*unpack(backups, into, "--backup", "nothing"))
    assert "There is no backup in" in place.refused(*unpack(place, into))
    assert "There is no backup of this server yet" in place.refused("logs")


@pytest.mark.parametrize("damage", ["truncated", "altered", "gone"])
@pytest.mark.parametrize("file", ["2*/data.tar.gz", "logs/*/*.gz"])
def test_a_damaged_file_is_refused(backups: Backups, tmp_path: Path, file: str, damage: str) -> None:
    damaged = backups.changed(tmp_path / "place")
    path = sorted(damaged.place.glob(file))[-1]
    whole = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(whole[:-1000])
        case "altered":
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        case "gone":
            path.unlink()
    sentence = damaged.refused(*unpack(damaged, tmp_path / "data"))
    assert str(path) in sentence
    assert ("is gone" if damage == "gone" else "is not as it was written") in sentence


def test_a_damaged_description_and_one_of_another_version_are_refused(backups: Backups, tmp_path: Path) -> None:
    damaged = backups.changed(tmp_path / "one")
    (path,) = damaged.place.glob("2*/backup.json")
    path.write_bytes(path.read_bytes()[:-5])
    assert f"{path} cannot be read" in damaged.refused("list")
    newer = backups.changed(tmp_path / "other", format=2)
    assert "is of another version of this program" in newer.refused("list")


@pytest.mark.parametrize("version", ["mysqld Ver 10.11.19 for Linux", "mariadbd Ver 10.6.1-MariaDB for Linux"])
def test_a_server_of_another_series_is_refused(backups: Backups, tmp_path: Path, version: str) -> None:
    sentence = backups.refused(*unpack(backups, tmp_path / "data", version=version))
    assert f"and what is here is {version}: restore it with a server of that series" in sentence


def test_a_restore_never_writes_over_data(backups: Backups, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/precious").write_text("precious")
    assert "is not empty" in backups.refused(*unpack(backups, tmp_path / "data"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["precious"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_backup_that_was_stopped_is_none_and_the_next_clears_what_is_left(place: Backups, sign: int) -> None:
    for begun in ".2*/data", ".2*/.data.tar.gz":
        process = place.begin("take")
        wait_until(lambda begun=begun: list(place.place.glob(begun)))  # type: ignore[misc]
        process.send_signal(sign)
        process.communicate()
        assert process.returncode != 0
        assert place.names() == []
        if sign != signal.SIGKILL:
            assert [path.name for path in place.place.iterdir()] == [".lock"]
    place.run("take")
    assert len(place.names()) == 1
    assert not list(place.place.glob(".2*"))


def test_two_backups_at_once_are_refused_and_the_logs_wait_for_the_end(place: Backups) -> None:
    first = place.begin("take")
    wait_until(lambda: list(place.place.glob(".2*")))
    assert "Another backup is under way here" in place.refused("take")
    place.run("logs")
    assert len(place.names()) == 1
    first.communicate()
    assert first.returncode == 0


def test_a_place_without_room_or_that_cannot_be_written_to_is_named(place: Backups, tmp_path: Path) -> None:
    assert "BACKUP_MAX_SIZE is malformed" in place.refused("take", BACKUP_MAX_SIZE="malformed")
    assert "cannot be written to" in place.refused("take", BACKUP_DIRECTORY="/proc/none")
    (tmp_path / "data").mkdir()
    with (tmp_path / "data/large").open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free)  # takes none
    assert "and a backup may need" in place.refused("take", DATA_DIRECTORY=str(tmp_path / "data"))
    assert place.names() == []


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(place: Backups) -> None:
    mount = 'mount -t tmpfs -o size=1m none "$0"; exec "$@"'
    small = "unshare", "--map-root-user", "--mount", "sh", "-euc", mount, str(place.place)
    if subprocess.run([*small, "true"]).returncode != 0:
        pytest.skip("needs the right to mount in a namespace of its own")
    assert "has 1.0 MB free, and a backup may need" in place.refused("take", under=small)
    assert place.names() == []


def test_a_disk_that_gets_full_ends_in_one_sentence_and_leaves_no_backup(
    backups: Backups, place: Backups, tmp_path: Path
) -> None:
    full = "prlimit", "--fsize=100000"  # a limit for each file
    assert "mariadb-backup failed" in place.refused("take", under=full)
    assert [path.name for path in place.place.iterdir()] == [".lock"]
    assert "File too large" in backups.refused(*unpack(backups, tmp_path / "data"), under=full)


def test_the_oldest_backups_and_their_logs_go_by_age_and_by_size_but_never_the_last_that_was_checked(
    place: Backups,
) -> None:
    for _ in range(3):
        place.run("take")
    first, second, third = place.names()
    place.run("prune", BACKUP_MAX_SIZE="1")
    assert place.names() == [first, second, third], "none was checked"
    place.check(second)
    place.run("prune")
    assert place.names() == [first, second, third], "none is old"
    place.run("prune", BACKUP_MAX_SIZE="1")
    assert place.names() == [second, third]
    begin = json.loads((place.place / second / "backup.json").read_text())["begin"]["log"]
    assert min(path.stem for path in place.place.glob("logs/*/*.json")) == begin
    assert "more than BACKUP_MAX_SIZE" in place.refused("logs", BACKUP_MAX_SIZE="1")
    assert "more than BACKUP_MAX_SIZE, and none may go" in place.refused("take", BACKUP_MAX_SIZE="1")
    place.check(third)
    wait_until(lambda: place.run("prune", BACKUP_RETENTION="1") == "" and place.names() == [third])


def test_no_more_backups_go_than_have_to_where_the_logs_are_what_is_large(place: Backups) -> None:
    place.run("take")
    table = f"`{place.database}`.large"
    large = f"INSERT INTO {table} VALUES (x'{os.urandom(3_000_000).hex()}')"
    place.server.execute(f"CREATE TABLE {table} (data LONGBLOB)", large, f"DROP TABLE {table}")
    place.run("logs")
    place.run("take")
    place.run("take")
    _, second, third = place.names()
    place.check(third)
    size = sum(path.stat().st_size for path in place.place.rglob("*") if path.is_file())
    place.run("prune", BACKUP_MAX_SIZE=str(size - 3_000_000))
    assert place.names() == [second, third]


def test_the_servers_own_logs_go_once_they_are_copied_and_are_more_than_they_may_be(place: Backups) -> None:
    place.run("take")
    for _ in range(3):
        place.write()
        place.run("logs")
    before = place.server.execute("SHOW BINARY LOGS")
    place.run("logs", BINARY_LOG_MAX_SIZE="1")
    kept = place.server.execute("SHOW BINARY LOGS")
    # MariaDB may need one more until its next checkpoint.
    assert not set(kept) & set(before[:-2])


def test_a_log_that_the_server_deleted_before_it_was_copied_is_told_at_once(place: Backups) -> None:
    place.run("take")
    place.server.execute("FLUSH BINARY LOGS", "FLUSH BINARY LOGS")
    *_, (last, _) = place.server.execute("SHOW BINARY LOGS")
    place.server.execute(f"PURGE BINARY LOGS TO '{last}'")
    assert "The server deleted a binary log before it was copied" in place.refused("logs")
    place.run("take")
    place.run("logs")


def test_each_transaction_of_a_log_is_found_where_the_server_has_it(backups: Backups) -> None:
    backups.write()
    backups.write()
    *_, (last, _) = backups.server.execute("SHOW BINARY LOGS")
    events = backups.server.execute(f"SHOW BINLOG EVENTS IN '{last}'")
    backups.server.execute("FLUSH BINARY LOGS")
    with (Path(backups.environment["DATA_DIRECTORY"]) / last).open("rb") as file:
        found = list(transactions(file))
    assert len(found) >= 2
    assert [one.position for one in found] == [event[1] for event in events if event[2] == "Gtid"]
    assert all((datetime.now(UTC) - one.moment).total_seconds() < 600 for one in found)
