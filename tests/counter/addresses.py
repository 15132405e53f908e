"""The three addresses that the README names, in a browser, under load: the page, the dashboard and the API.

With SCREENSHOTS=1 they are kept in docs/counter/images, which the README shows.
"""

import re
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from harness.compose import Stack
from service.platform.settings import ROOT
from tests.counter.browsers import LIMIT, SCREENSHOTS, chromium, said, set_screen, take_screenshot, violations
from tests.counter.test_docs_page import operation, send
from tests.counter.test_pages import UNDER_LOAD
from tests.loadtests.locust_runs import loading

RELOADED = [NoSuchElementException, StaleElementReferenceException]
"""What Selenium says while the dashboard is loaded again."""


def addresses(stack: Stack, prometheus: str) -> list[str]:
    """Returns those of the README's table, as they are here."""
    _, _, section = (ROOT / "README.md").read_text().partition("### See it\n")
    found = re.findall(r"^\| .* <http://127.0.0.1:(.+)> \|$", section.partition("\n## ")[0], re.MULTILINE)
    here = {"8080": stack.url, "9090": prometheus}
    return [here[address[:4]] + address[4:] for address in found]


def wait_until_it_moves(browser: webdriver.Chrome, number: Callable[[], str]) -> None:
    """Returns when the number has been two, neither of them 0."""
    seen = set()

    def has_moved(_: webdriver.Chrome) -> bool:
        seen.update(re.findall("^[1-9].*", number()))
        return len(seen) > 1

    WebDriverWait(browser, LIMIT, 0.1, RELOADED).until(has_moved)


def has_whole_lines(browser: webdriver.Chrome) -> bool:
    """Whether the dashboard's lines go back five minutes, as far as they can."""
    return browser.find_element(By.TAG_NAME, "polyline").get_dom_attribute("points").startswith(" -290")


def show_as(browser: webdriver.Chrome, screen: str) -> None:
    """Has the browser show the page as on that screenshot, and takes it; nothing may be wider than the screen."""
    width, height, scheme = UNDER_LOAD[screen]
    set_screen(browser, scheme, width, height)
    assert browser.execute_script("scroll(0, 0); return document.documentElement.scrollWidth") == width
    take_screenshot(browser, screen)


def check_that_they_move(stack: Stack, prometheus: str, log: Path) -> None:
    """Opens each while `visitors` load, until it has shown two numbers; fails where axe or the console complains."""
    page, dashboard, api = addresses(stack, prometheus)
    with loading("visitors", stack.url, log=log), chromium() as browser:
        set_screen(browser, "light", 1280, 800)
        browser.get(page)
        wait_until_it_moves(browser, lambda: browser.find_element(By.ID, "count").text)

        browser.get(api)
        part = operation(browser, "GET", "/counters/{name}")
        wait_until_it_moves(browser, lambda: re.findall(r'"value": (\d+)', send(browser, part, name="page"))[0])
        show_as(browser, "api-desktop-light")

        browser.get(dashboard)
        requests = "//h2[.='Requests/s']/../p"
        wait_until_it_moves(browser, lambda: browser.find_element(By.XPATH, requests).text)
        if SCREENSHOTS:
            WebDriverWait(browser, 400, 1, ignored_exceptions=RELOADED).until(has_whole_lines)
        browser.find_element(By.LINK_TEXT, "pause").click()
        for screen in "dashboard-desktop-light", "dashboard-phone-dark":
            show_as(browser, screen)
            assert violations(browser) == [], screen
        assert [line for line in said(browser) if prometheus in line] == []
