"""A MariaDB whose disk is slow to confirm: strace holds back each of its syncs.

strace does it with a timer for each thread, so that one sync delays no other; with --seccomp-bpf no other system call
stops for it. -D: the server is strace's parent, not its child, and ends by SIGTERM as without it.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from harness.databases import DatabaseServer, new_database
from loadtests.proof.measuring import MeasuringError
from loadtests.proof.servers import database_server

SYNC = 0.02
"""Seconds that each fsync and fdatasync takes longer: a commit of MariaDB 10.11 waits for two of them, the redo log's
and the binary log's."""

COMMITS = 9
"""How many are timed."""


class Commit(NamedTuple):
    """The seconds of one commit, on the usual disk and on the slow one."""

    usual: float
    slow: float


@contextmanager
def slow_disk(sync: float, beside: DatabaseServer) -> Iterator[tuple[DatabaseServer, Commit]]:
    """Starts a private MariaDB whose syncs take so many seconds longer than those of `beside`, until the block's end.

    Raises MeasuringError where a commit does not take as much longer.
    """
    calls = "fsync,fdatasync"
    delayed = f"inject={calls}:delay_enter={sync * 1e6:.0f}"
    strace = ("strace", "-D", "-f", "--seccomp-bpf", "-e", f"trace={calls}", "-e", delayed, "-o", "/dev/null")
    with database_server(under=strace) as (server, _):
        commit = Commit(_commit(beside), _commit(server))
        if commit.slow < commit.usual + sync:
            raise MeasuringError(f"strace does not delay the database's syncs: a commit takes {_ms(commit.slow)}")
        yield server, commit


def note(sync: float, commit: Commit) -> str:
    """Returns what the report must say of the slow disk."""
    return (
        f"On the slow disk each sync of the database takes {_ms(sync)} longer: strace delays its `fsync` and "
        f"`fdatasync`. One commit alone then takes {_ms(commit.slow)}, and {_ms(commit.usual)} on the usual disk."
    )


def _commit(server: DatabaseServer) -> float:
    found = []
    with new_database(server) as database:
        database.execute("CREATE TABLE written (number INT)")
        database.execute("INSERT INTO written VALUES (0)")
        with server.connect(database=database.name) as connection, connection.cursor() as cursor:
            for _ in range(COMMITS):
                start = time.perf_counter()
                cursor.execute("UPDATE written SET number = number + 1")
                found.append(time.perf_counter() - start)
    return statistics.median(found)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
