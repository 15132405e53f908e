"""The page to try the API, in a browser, through nginx: its Content-Security-Policy is what can break it."""

from collections.abc import Iterator

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from harness.compose import Stack
from tests.counter.browsers import LIMIT, asked, chromium, said

pytestmark = [pytest.mark.compose, pytest.mark.browser]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as browser:
        yield browser


def operation(browser: webdriver.Chrome, method: str, path: str) -> WebElement:
    """Opens an operation and returns its part of the page."""
    summary = f"//*[@class='opblock-summary-path' and @data-path='{path}']"
    part = f"{summary}/ancestor::div[contains(@class, 'opblock-{method.lower()}')]"
    found = WebDriverWait(browser, LIMIT).until(lambda page: page.find_element(By.XPATH, part))
    found.find_element(By.CLASS_NAME, "opblock-summary-control").click()
    return found


def send(browser: webdriver.Chrome, part: WebElement, body: str = "", **parameters: str) -> str:
    """Fills in the fields and returns what is shown for the answer."""
    WebDriverWait(browser, LIMIT).until(lambda _: part.find_elements(By.CLASS_NAME, "execute"))
    for name, value in parameters.items():
        field = part.find_element(By.XPATH, f".//tr[@data-param-name='{name}']//input")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)
    if body:
        area = part.find_element(By.CLASS_NAME, "body-param__text")
        area.send_keys(Keys.CONTROL, "a")
        area.send_keys(body)
    part.find_element(By.CLASS_NAME, "execute").click()
    shown = WebDriverWait(browser, LIMIT).until(lambda _: part.find_elements(By.CLASS_NAME, "live-responses-table"))
    return shown[0].text


def authorize(browser: webdriver.Chrome, token: str) -> None:
    browser.find_element(By.CSS_SELECTOR, ".auth-wrapper .authorize").click()
    container = WebDriverWait(browser, LIMIT).until(lambda page: page.find_element(By.CLASS_NAME, "auth-container"))
    container.find_element(By.TAG_NAME, "input").send_keys(token)
    container.find_element(By.CSS_SELECTOR, "button.authorize").click()
    browser.find_element(By.CSS_SELECTOR, "button.btn-done").click()


def test_the_page_shows_every_operation_and_sends_what_is_filled_in(stack: Stack, browser: webdriver.Chrome) -> None:
    browser.get(f"{stack.url}/docs")
    read = send(browser, operation(browser, "GET", "/counters/{name}"), name="page")
    assert "200" in read
    assert '"name": "page"' in read
    described = httpx.get(f"{stack.url}/openapi.json").json()["paths"]
    shown = browser.find_elements(By.CLASS_NAME, "opblock")
    assert len(shown) == sum(len(methods) for methods in described.values())
    assert '"counters": [' in send(browser, operation(browser, "GET", "/counters"), limit="1")
    authorize(browser, "made up")
    refused = send(browser, operation(browser, "POST", "/counters/{name}/hits"), '{"amount": 2}', name="page")
    assert "401" in refused
    assert "/problems/token-unknown" in refused


def test_the_page_asks_no_other_host_and_keeps_to_its_policy(stack: Stack, browser: webdriver.Chrome) -> None:
    browser.get(f"{stack.url}/docs")
    operation(browser, "GET", "/counters/{name}")
    loaded = asked(browser)
    assert f"{stack.url}/docs/swagger-ui-bundle.js" in loaded
    assert all(url.startswith((f"{stack.url}/", "data:")) for url in loaded), loaded
    assert said(browser) == []
