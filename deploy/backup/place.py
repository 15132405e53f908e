"""The place where backups and binary logs are kept, a directory:

    20261126T172040.123456Z/backup.json, data.tar.gz, checked.json
    logs/SERVER/binlog.000012.json, binlog.000012.gz

Each is written under a name that begins with a dot, synced and renamed, and what describes it (.json) comes last: what
has no description is not there. What a stop has left behind is removed by the next that writes.
"""

import fcntl
import gzip
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import msgspec

from deploy.backup.errors import Refused

FORMAT = 1
DATA = "data.tar.gz"

_Description = TypeVar("_Description", bound=msgspec.Struct)


class Position(msgspec.Struct, frozen=True):
    """A place in the server's binary logs."""

    log: str
    offset: int

    @property
    def number(self) -> int:
        """The log's number: names are not ordered, since they get longer."""
        return int(self.log.rpartition(".")[2])

    @property
    def order(self) -> tuple[int, int]:
        return self.number, self.offset

    def __str__(self) -> str:
        return f"{self.log}:{self.offset}"


class Packed(msgspec.Struct, frozen=True):
    """A compressed file: its size in bytes and its SHA-256, and the size of what is in it."""

    size: int
    sha256: str
    unpacked: int


class Backup(msgspec.Struct, frozen=True):
    """A copy of all data, and from where the logs are to be replayed. It holds nothing from `end` in the logs on; with
    the logs up to there it holds all that was committed before `moment`."""

    format: int
    name: str
    moment: datetime
    product: str
    version: str
    server: str
    begin: Position
    end: Position
    data: Packed


class Check(msgspec.Struct, frozen=True):
    """That a backup was restored, and what was in it."""

    moment: datetime
    revision: str
    tables: int


class Log(msgspec.Struct, frozen=True):
    """A binary log, which holds what was committed between two moments."""

    server: str
    name: str
    begins: datetime
    ends: datetime
    data: Packed

    @property
    def number(self) -> int:
        return Position(self.name, 0).number


def contiguous(logs: list[Log], first: int) -> list[Log]:
    """Returns the logs from that number on, up to where one is missing."""
    later = [log for log in logs if log.number >= first]
    return [log for number, log in enumerate(later, first) if number == log.number]


class Counted:
    """A file that is written to or read from, and the number of bytes so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._note(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._note(data)
        return data

    def _note(self, data: bytes) -> None:
        self.size += len(data)


class Sums(Counted):
    """Also computes the SHA-256 of these bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._sum = hashlib.sha256()

    def _note(self, data: bytes) -> None:
        super()._note(data)
        self._sum.update(data)

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()


def size_of(directory: Path) -> int:
    """Returns the bytes of all files in it."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Writes a file that is there whole at the end of the block, and otherwise not at all."""
    new = path.with_name(f".{path.name}")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


def sync(directory: Path) -> None:
    """Has the names in the directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def unpacking(path: Path, packed: Packed) -> Iterator[IO[bytes]]:
    """Opens a compressed file, which is read to its end after the block. Raises Refused if it is not as written."""
    sentence = f"{path} is not as it was written: choose another backup with --backup, or put back a copy of it."
    try:
        with path.open("rb") as file:
            sums = Sums(file)
            with gzip.GzipFile(fileobj=sums, mode="rb") as inside:  # type: ignore[call-overload]
                yield inside
                while inside.read(1 << 20):
                    pass
            while sums.read(1 << 20):
                pass
    except FileNotFoundError:
        raise Refused(f"{path} is gone: choose another backup with --backup, or put back a copy of it.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Refused(sentence) from None
    if (sums.size, sums.sha256) != (packed.size, packed.sha256):
        raise Refused(sentence)


class Place:
    """The directory with all backups and logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def changing(self, patience: float = 0) -> Iterator[None]:
        """Keeps others from changing anything here, and removes what a stop has left.

        Raises Refused, also where another is still changing something after `patience` seconds.
        """
        try:
            lock = (self.directory / ".lock").open("w")
        except OSError as error:
            raise Refused(
                f"{self.directory} cannot be written to ({error.strerror}): it must be there, and belong to the user "
                f"with the number {os.getuid()}."
            ) from None
        with lock:
            end = time.monotonic() + patience
            while not _has_locked(lock):
                if time.monotonic() >= end:
                    raise Refused("Another backup is under way here: wait for its end.")
                time.sleep(0.1)
            self._clear()
            yield

    def _clear(self) -> None:
        for left in [*self.directory.glob(".2*Z"), *self.directory.glob(".removed")]:
            shutil.rmtree(left)
        for left in self.directory.glob("logs/*/.binlog*"):
            left.unlink()
        for packed in self.directory.glob("logs/*/*.gz"):
            if not packed.with_suffix(".json").exists():
                packed.unlink()

    def backups(self) -> list[Backup]:
        """Returns the backups, the oldest first. Raises Refused if a description is damaged."""
        found = [_read(path, Backup) for path in sorted(self.directory.glob("2*Z/backup.json"))]
        for backup in found:
            if backup.format != FORMAT:
                raise Refused(
                    f"The backup {backup.name} is of another version of this program: use that to restore it."
                )
        return found

    def check_of(self, backup: Backup) -> Check | None:
        """Returns when it was restored to check it; None if it was not."""
        path = self.directory / backup.name / "checked.json"
        return _read(path, Check) if path.exists() else None

    def note_check(self, name: str, check: Check) -> None:
        with written(self.directory / name / "checked.json") as file:
            file.write(msgspec.json.encode(check))

    def logs(self, server: str) -> list[Log]:
        """Returns the server's binary logs, in their order. Raises Refused if a description is damaged."""
        found = [_read(path, Log) for path in self.directory.glob(f"logs/{server}/*.json")]
        return sorted(found, key=lambda log: log.number)

    def path_of(self, log: Log) -> Path:
        return self.directory / "logs" / log.server / f"{log.name}.gz"

    def data_of(self, backup: Backup) -> Path:
        return self.directory / backup.name / DATA

    @contextmanager
    def new_backup(self, name: str) -> Iterator[Path]:
        """Gives a directory that is a backup at the end of the block, and otherwise gone."""
        new, whole = self.directory / f".{name}", self.directory / name
        new.mkdir(mode=0o700)
        try:
            yield new
            sync(new)
            new.rename(whole)
            sync(self.directory)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def add_log(self, source: Path, server: str, begins: datetime, ends: datetime) -> None:
        """Copies a binary log, compressed."""
        directory = self.directory / "logs" / server
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written(directory / f"{source.name}.gz") as file, source.open("rb") as log:
            sums = Sums(file)
            with gzip.GzipFile(filename="", fileobj=sums, mode="wb", compresslevel=1) as packed:  # type: ignore[call-overload]
                shutil.copyfileobj(log, packed, 1 << 20)
            added = Log(server, source.name, begins, ends, Packed(sums.size, sums.sha256, log.tell()))
        with written(directory / f"{source.name}.json") as file:
            file.write(msgspec.json.encode(added))

    def size(self) -> int:
        """Returns the bytes of all files."""
        return size_of(self.directory)

    def prune(self, now: datetime, retention: timedelta, largest: int) -> list[str]:
        """Removes backups that are older than `retention` or do not fit into `largest` bytes, the oldest first, and the
        logs that no backup needs; returns the names of the backups. The last that was checked stays, and all since.
        """
        removed = []
        backups = self.backups()
        self._remove_logs(backups)
        checked = [number for number, backup in enumerate(backups) if self.check_of(backup)]
        for backup in backups[: checked[-1]] if checked else []:
            if now - backup.moment > retention or self.size() > largest:
                self._remove(backup)
                removed.append(backup.name)
                self._remove_logs([backup for backup in backups if backup.name not in removed])
        return removed

    def _remove(self, backup: Backup) -> None:
        gone = self.directory / ".removed"
        (self.directory / backup.name).rename(gone)
        sync(self.directory)
        shutil.rmtree(gone)

    def _remove_logs(self, backups: list[Backup]) -> None:
        for directory in self.directory.glob("logs/*"):
            needed = [backup.begin.number for backup in backups if backup.server == directory.name]
            for log in self.logs(directory.name):
                if not needed or log.number < min(needed):
                    self.path_of(log).with_suffix(".json").unlink()
                    self.path_of(log).unlink()


def _has_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path, kind: type[_Description]) -> _Description:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, OSError) as error:
        raise Refused(f"{path} cannot be read ({error}): put back a copy of it, or remove what it describes.") from None
