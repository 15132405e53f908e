"""What `./run backup` does beside a running server: a copy of its data, and its binary logs."""

import gzip
import shutil
import tarfile
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec

from deploy.backup import binary_log
from deploy.backup.errors import Refused
from deploy.backup.place import (
    DATA,
    FORMAT,
    Backup,
    Counted,
    Packed,
    Place,
    Position,
    Sums,
    contiguous,
    size_of,
    written,
)
from deploy.backup.progress import megabytes, progress, say
from deploy.backup.server import Server

_NAME = "%Y%m%dT%H%M%S.%fZ"
_PATIENCE = 240
"""Seconds for which the copy of the logs waits for a backup: less than the five minutes until its next turn."""


class Limits(msgspec.Struct, frozen=True):
    """How long backups are kept, and the bytes that they, and the server's own binary logs, may take."""

    retention: timedelta
    place: int
    server_logs: int


def take(place: Place, server: Server, limits: Limits) -> None:
    """Makes a backup, and copies the binary logs. Raises Refused."""
    with place.changing():
        _prune(place, server, limits)
        _need_limit(place, limits)
        _need_room(place, server)
        say("copying the data")
        name = f"{server.now():{_NAME}}"
        with place.new_backup(name) as folder:
            copy = folder / "data"
            with progress(server.size(), lambda: size_of(copy)):
                begin = server.copy(copy)
            end, moment = server.position(), server.now()
            say("compressing the copy")
            packed = _pack(copy, folder / DATA)
            shutil.rmtree(copy)
            backup = Backup(FORMAT, name, moment, server.product, server.version, server.identity, begin, end, packed)
            with written(folder / "backup.json") as file:
                file.write(msgspec.json.encode(backup))
        say(f"backup {name}: {megabytes(packed.size)}, of {megabytes(packed.unpacked)} in the database")
        _copy_logs(place, server, limits)


def copy_logs(place: Place, server: Server, limits: Limits) -> None:
    """Copies the binary logs since the oldest backup that are not there yet. Raises Refused."""
    with place.changing(_PATIENCE):
        _prune(place, server, limits)
        _need_limit(place, limits)
        _copy_logs(place, server, limits)
        _need_all_logs(place, server)


def _need_all_logs(place: Place, server: Server) -> None:
    """Raises Refused if a log since the newest backup is neither here nor on the server any longer."""
    newest = [backup for backup in place.backups() if backup.server == server.identity][-1]
    logs = [log for log in place.logs(server.identity) if log.number >= newest.begin.number]
    whole = contiguous(logs, newest.begin.number)
    if len(whole) < len(logs):
        reached = whole[-1].ends if whole else newest.moment
        raise Refused(
            f"The server deleted a binary log before it was copied, so no moment after {reached} can be restored until "
            "there is another backup: ./run backup, and ./run backup --logs more often."
        )


def prune(place: Place, server: Server, limits: Limits) -> None:
    """Removes what is old or too much, as Place.prune says. Raises Refused."""
    with place.changing():
        _prune(place, server, limits)


def _prune(place: Place, server: Server, limits: Limits) -> None:
    for name in place.prune(server.now(), limits.retention, limits.place):
        say(f"removed the backup {name}")


def _copy_logs(place: Place, server: Server, limits: Limits) -> None:
    first = min((backup.begin.number for backup in place.backups() if backup.server == server.identity), default=None)
    if first is None:
        raise Refused(
            "There is no backup of this server yet, and without one its binary logs are of no use: ./run backup."
        )
    reached = server.now()
    logs = server.closed_logs()
    copied = {log.number for log in place.logs(server.identity)}
    wanted = [path for path, _ in logs if _number(path) >= first and _number(path) not in copied]
    begun = {path: _begun(path) for path, _ in logs if path in wanted}
    ends = {**{one: _begun(other) for (one, _), (other, _) in pairwise(logs) if one in wanted}, logs[-1][0]: reached}
    sizes = {path: size for path, size in logs if path in wanted}
    copied_bytes = 0
    with progress(sum(sizes.values()), lambda: copied_bytes):
        for path in wanted:
            place.add_log(path, server.identity, begun[path], ends[path])
            copied_bytes += sizes[path]
    say(f"{len(wanted)} binary logs copied: any moment up to {reached:%Y-%m-%d %H:%M:%S} can be restored")
    _purge(server, logs, limits.server_logs)


def _purge(server: Server, logs: list[tuple[Path, int]], largest: int) -> None:
    """Has the server delete its oldest logs, which are copied, until the rest is no more than `largest` bytes."""
    total = sum(size for _, size in logs)
    keep = [path for path, _ in logs]
    for (path, size), _ in pairwise(logs):
        if total > largest:
            total -= size
            keep.remove(path)
    if len(keep) < len(logs):
        server.purge_logs(keep[0].name)
        say(f"the server deleted {len(logs) - len(keep)} of its binary logs, which are copied")


def _number(path: Path) -> int:
    return Position(path.name, 0).number


def _begun(path: Path) -> datetime:
    with path.open("rb") as file:
        return binary_log.begins(file)


def _need_limit(place: Place, limits: Limits) -> None:
    """Raises Refused unless what is there is within its limit."""
    if place.size() > limits.place:
        raise Refused(
            f"The backups and binary logs have {megabytes(place.size())}, more than BACKUP_MAX_SIZE, and none may go: "
            "raise it, or check a newer backup by ./run backup --verify, after which those before it may."
        )


def _need_room(place: Place, server: Server) -> None:
    """Raises Refused unless there is room for a copy and, packed, once more."""
    needed, free = 2 * server.size(), shutil.disk_usage(place.directory).free
    if needed > free:
        raise Refused(
            f"{place.directory} has {megabytes(free)} free, and a backup may need {megabytes(needed)}: make room, or "
            "set BACKUP_DIRECTORY to another disk."
        )


def _pack(folder: Path, into: Path) -> Packed:
    """Writes the folder's files into a compressed archive."""
    total = size_of(folder)
    with written(into) as file:
        sums = Sums(file)
        with gzip.GzipFile(filename="", fileobj=sums, mode="wb", compresslevel=1) as packed:  # type: ignore[call-overload]
            counted = Counted(packed)
            with (
                progress(total, lambda: counted.size),
                tarfile.open(fileobj=counted, mode="w|") as archive,  # type: ignore[call-overload]
            ):
                for path in sorted(folder.rglob("*")):
                    archive.add(path, path.relative_to(folder), recursive=False)
    return Packed(sums.size, sums.sha256, total)
