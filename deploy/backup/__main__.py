"""The jobs of ./run backup and ./run restore, which know where their files are and how to run a private server."""

import argparse
import os
import re
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.backup import jobs, restore
from deploy.backup.errors import Refused
from deploy.backup.place import Place, Position, contiguous
from deploy.backup.progress import megabytes, say
from deploy.backup.server import Server

POSITION = re.compile(r"([A-Za-z0-9_-]+\.[0-9]{6,}):([0-9]+)")


def moment_or_position(text: str) -> datetime | Position:
    """Returns the moment, in UTC unless it says otherwise, or the position in a binary log (`binlog.000012:3456`)."""
    if position := POSITION.fullmatch(text):
        return Position(position[1], int(position[2]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            f"{text!r} is neither a moment like 2026-11-26T17:20:00 (in UTC, or with +01:00 after it) nor a position "
            "like binlog.000012:3456."
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def number(name: str, default: int) -> int:
    """Returns the setting. Raises Refused if it is malformed."""
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise Refused(f"{name} is malformed: see .quartenv.example.")
    return int(text)


def limits() -> jobs.Limits:
    return jobs.Limits(
        timedelta(seconds=number("BACKUP_RETENTION", 604_800)),
        number("BACKUP_MAX_SIZE", 50_000_000_000),
        number("BINARY_LOG_MAX_SIZE", 2_000_000_000),
    )


def list_all(place: Place) -> None:
    """Prints the backups, and up to where each of them reaches with the logs."""
    for backup in place.backups():
        logs = contiguous(place.logs(backup.server), backup.begin.number)
        reached = max([backup.moment, *(log.ends for log in logs)])
        check = place.check_of(backup)
        checked = f"restored to check it, revision {check.revision or 'none'}" if check else "not checked"
        print(
            f"{backup.name}  {backup.product} {backup.version}  {megabytes(backup.data.size)}  any moment from "
            f"{backup.moment:%Y-%m-%dT%H:%M:%S.%f} to {reached:%Y-%m-%dT%H:%M:%S.%f}  {checked}"
        )
    print(f"{megabytes(place.size())} in all")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy.backup", description=(__doc__ or "").partition("\n")[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    for name in "take", "logs", "prune", "list", "changes":
        tasks.add_parser(name)
    unpack = tasks.add_parser("unpack")
    unpack.add_argument("directory", type=Path)
    unpack.add_argument("--to")
    unpack.add_argument("--backup")
    unpack.add_argument("--version", required=True, help="what the server says of itself")
    unpack.add_argument("--no-logs", action="store_true", help="the backup alone")
    replay = tasks.add_parser("replay")
    replay.add_argument("directory", type=Path)
    replay.add_argument("--note", action="store_true", help="that the backup was checked")
    return parser.parse_args()


def run(given: argparse.Namespace, place: Place) -> None:
    match given.task:
        case "list":
            list_all(place)
        case "changes":
            for moment, position, statement in restore.changes(place):
                print(f"{moment:%Y-%m-%dT%H:%M:%S.%f}  {position}  {statement}")
        case "unpack":
            chosen = restore.plan(place, given.backup, moment_or_position(given.to) if given.to else None)
            if given.no_logs:
                chosen = restore.Plan(chosen.backup, [], None)
            restore.unpack(place, chosen, given.directory, given.version)
        case "replay":
            backup, check = restore.replay(given.directory)
            if given.note:
                place.note_check(backup.name, check)
                say(f"backup {backup.name} was restored: {check.tables} tables, revision {check.revision or 'none'}")
        case _:
            server = Server(Path(os.environ["DATA_DIRECTORY"]))
            {"take": jobs.take, "logs": jobs.copy_logs, "prune": jobs.prune}[given.task](place, server, limits())


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    place = Place(Path(os.environ["BACKUP_DIRECTORY"]))
    try:
        run(parsed(), place)
    except Refused as error:
        sys.exit(f"backup: {error}")
    except OSError as error:
        sys.exit(f"backup: {error.strerror}: {error.filename or place.directory}.")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
