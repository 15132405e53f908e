"""The names of counters."""

import re
from http import HTTPStatus

from service.platform.problems import Problem

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class MalformedName(Problem):
    """No counter can have this name."""

    def __init__(self) -> None:
        text = "A counter's name has 1 to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit."
        super().__init__(HTTPStatus.BAD_REQUEST, "malformed-name", text)


def check_name(name: str) -> str:
    """Returns the name. Raises MalformedName."""
    if _NAME.fullmatch(name) is None:
        raise MalformedName
    return name
