"""The names of counters."""

import re

from service.counter.errors import MalformedName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: str) -> str:
    """Returns the name. Raises MalformedName."""
    if _NAME.fullmatch(name) is None:
        raise MalformedName
    return name
