"""The counter's page, read."""

import re


def number_in(page: str) -> int:
    """Returns the number that the page tells."""
    found = re.fullmatch(r"<h1>Counter: (\d+)</h1>", page)
    assert found, page
    return int(found[1])
