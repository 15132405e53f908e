"""Chromium without a window, Debian's, driven by its own driver."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver

LIMIT = 30
"""Seconds within which a browser must show what it waits for."""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Runs a browser with a profile of its own until the end of the block; it keeps all that its console says."""
    options = webdriver.ChromeOptions()
    for option in "--headless=new", "--no-sandbox", "--disable-dev-shm-usage":  # root may not use the sandbox
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        yield browser


def said(browser: webdriver.Chrome) -> list[str]:
    """Returns what the browser's console has said since it was asked last."""
    return [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]


def asked(browser: webdriver.Chrome) -> list[str]:
    """Returns the addresses of all that the page has loaded."""
    found: list[str] = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    return found
