"""Chromium without a window, Debian's, driven by its own driver."""

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver

from service.platform.settings import ROOT

SCREENSHOTS = "SCREENSHOTS" in os.environ
"""Whether the README's images are to be made anew."""

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


def set_screen(browser: webdriver.Chrome, scheme: str, width: int, height: int) -> None:
    """Has the browser show pages as on such a screen; `scheme` is light or dark."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def violations(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Returns what axe-core finds on the page, all of its rules."""
    axe = pytest.importorskip("axe_selenium_python", reason="it needs Python 3.12").Axe(browser)
    axe.inject()
    found: list[dict[str, Any]] = axe.run()["violations"]
    return found


def take_screenshot(browser: webdriver.Chrome, name: str) -> None:
    """Where SCREENSHOTS says so, writes what the browser shows to docs/counter/images; pngquant makes it small."""
    if SCREENSHOTS:
        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        path = ROOT / f"docs/counter/images/{name}.png"
        subprocess.run(["pngquant", "--force", "--output", path, "64", "-"], input=base64.b64decode(taken), check=True)
