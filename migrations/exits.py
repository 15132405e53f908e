"""How a command that cannot do its work ends: by an exit code, and one sentence. docs/runbook.md explains each code."""

import sys
from enum import IntEnum
from typing import NoReturn


class Exit(IntEnum):
    """Exit codes of sysexits(3), which Python's `os` has on Unix only."""

    DATAERR = 65
    UNAVAILABLE = 69
    SOFTWARE = 70
    TEMPFAIL = 75
    NOPERM = 77
    CONFIG = 78


def give_up(code: Exit, sentence: str) -> NoReturn:
    """Ends the process with `code`, and prints one sentence that says what is wrong and what to do."""
    print(sentence, file=sys.stderr)
    sys.exit(code)
