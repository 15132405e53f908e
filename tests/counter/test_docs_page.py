"""The page to try the API, in a browser, through nginx: its Content-Security-Policy is what can break it."""

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from harness.compose import Stack

pytestmark = [pytest.mark.compose, pytest.mark.browser]

LIMIT = 20
"""Seconds within which a browser must show what it waits for."""


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for option in "--headless=new", "--no-sandbox", "--disable-dev-shm-usage":  # root may not use the sandbox
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        yield browser


def section(browser: webdriver.Chrome, operation: str) -> WebElement:
    """Returns the part of the page about an operation."""
    headings = WebDriverWait(browser, LIMIT).until(lambda page: page.find_elements(By.TAG_NAME, "h2"))
    (found,) = (heading for heading in headings if heading.text == operation)
    return found.find_element(By.XPATH, "..")


def send(browser: webdriver.Chrome, part: WebElement, **values: str) -> str:
    """Fills in the fields and returns what is shown for the answer."""
    for name, value in values.items():
        part.find_element(By.XPATH, f".//label[starts-with(., '{name} ')]//*[self::input or self::textarea]").send_keys(
            value
        )
    part.find_element(By.TAG_NAME, "button").click()
    shown = part.find_element(By.TAG_NAME, "pre")
    return WebDriverWait(browser, LIMIT).until(lambda _: shown.text)


def test_the_page_shows_every_operation_and_sends_what_is_filled_in(stack: Stack, browser: webdriver.Chrome) -> None:
    browser.get(f"{stack.url}/docs")
    read = send(browser, section(browser, "GET /counters/{name}"), name="page")
    assert read.startswith("200")
    assert '"name":"page"' in read
    listed = send(browser, section(browser, "GET /counters"), limit="1")
    assert '"counters":["page"]' in listed
    browser.find_element(By.ID, "token").send_keys("made up")
    refused = send(browser, section(browser, "POST /counters/{name}/hits"), name="page", body='{"amount": 2}')
    assert refused.startswith("401")
    assert "/problems/token-unknown" in refused
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert not [entry for entry in log if "Content Security Policy" in entry["message"]]
