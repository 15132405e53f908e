"""The code of the version before this one, from git's history."""

import functools
import subprocess
from pathlib import Path

from service.platform.settings import ROOT

SINCE = "migrations/versions/0004_history.py"
"""The last release is the earlier version. While there is none, it is the code before this revision."""


def _git(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Runs git here, also where the checkout is another user's, as in a container of CI."""
    return subprocess.run(["git", "-c", "safe.directory=*", *arguments], cwd=ROOT, capture_output=True)


@functools.cache
def earlier_commit() -> str | None:
    """Returns the commit of the version before this one, None where the history is not there (a shallow clone)."""
    released = _git("describe", "--tags", "--abbrev=0", "HEAD^")
    if released.returncode == 0:
        return released.stdout.decode().strip()
    added = _git("log", "-1", "--diff-filter=A", "--format=%H^", "--", SINCE).stdout.decode().strip()
    return added if added and _git("rev-parse", "--verify", "--quiet", f"{added}{{commit}}").returncode == 0 else None


def earlier_code(into: Path) -> Path:
    """Writes the earlier version's files into the folder, and returns it."""
    commit = earlier_commit()
    assert commit, "the history is not there"
    subprocess.run(["tar", "--extract"], cwd=into, input=_git("archive", commit).stdout, check=True)
    return into
