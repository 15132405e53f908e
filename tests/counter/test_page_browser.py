"""The pages in browsers, through nginx: live, after a lost connection, and for everyone.

With SCREENSHOTS=1 they also write docs/counter/images, which the README shows.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import httpx
import psutil
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from harness.databases import Database
from harness.nginx import nginx
from harness.processes import Hypercorn, for_each, free_port, hypercorn, is_ready, wait_until
from tests.conftest import SECRET_KEY
from tests.counter.browsers import LIMIT, asked, chromium, said, set_screen, take_screenshot, violations
from tests.counter.shared import name, shared
from tests.counter.test_pages import NOW, SCREENS

__all__ = ["name", "shared"]

pytestmark = [pytest.mark.nginx, pytest.mark.browser, pytest.mark.any_database]

StartService = Callable[[], Hypercorn]


@pytest.fixture(scope="module")
def port() -> int:
    """The service's."""
    return free_port()


@pytest.fixture(scope="module")
def start_service(
    shared: Database, port: int, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartService]:
    """Starts the service at its port, again and again if need be."""
    own = {"SECRET_KEY": SECRET_KEY, "API_TOKENS_REQUIRED": "false", "ROLL_UP_SCHEDULE": "", "WATCH_INTERVAL": "0.2"}
    environment = {**plain_environment, **shared.environment, **own}
    with ExitStack() as stack:

        def start_service() -> Hypercorn:
            log = tmp_path_factory.mktemp("pages") / "log"
            running = stack.enter_context(hypercorn(environment, log, workers=1, port=port))
            wait_until(lambda: is_ready(running), log=log)
            return running

        yield start_service


@pytest.fixture(scope="module")
def service(start_service: StartService) -> Hypercorn:
    return start_service()


@pytest.fixture(scope="module")
def url(service: Hypercorn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where nginx answers."""
    with nginx(tmp_path_factory.mktemp("nginx"), f"127.0.0.1:{service.port}") as running:
        yield f"http://127.0.0.1:{running.port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: webdriver.Chrome, url: str, name: str) -> str:
    """The address of a counter, which the browser shows live."""
    page = f"{url}/counters/{name}"
    browser.get(page)
    wait_for(browser, "state", "Live")
    return page


def wait_for(browser: webdriver.Chrome, element: str, text: str) -> None:
    """Returns when the element shows the text."""
    WebDriverWait(browser, LIMIT, 0.05).until(lambda _: browser.find_element(By.ID, element).text == text, text)


def hit(page: str, amount: int) -> None:
    httpx.post(f"{page}/hits", json={"amount": amount}).raise_for_status()


def test_two_browsers_see_each_hit_and_come_back_when_the_connection_was_lost(
    browser: webdriver.Chrome, page: str, service: Hypercorn, start_service: StartService
) -> None:
    with chromium() as other:
        other.get(page)
        wait_for(other, "state", "Live")
        hit(page, 1234)
        for one in browser, other:
            wait_for(one, "count", "1,234")
            assert said(one) == []
        processes = psutil.Process(service.process.pid).children(recursive=True)
        service.process.kill()
        for_each(processes, psutil.Process.kill)
        for one in browser, other:
            wait_for(one, "state", "The connection is lost; trying again …")
        start_service()
        hit(page, 1)
        for one in browser, other:
            wait_for(one, "count", "1,235")
            wait_for(one, "state", "Live")
            assert [line for line in said(one) if "Content Security Policy" in line] == []


def test_a_counter_that_is_deleted_is_shown_as_such_and_not_asked_for_again(
    browser: webdriver.Chrome, page: str
) -> None:
    httpx.delete(page).raise_for_status()
    wait_for(browser, "state", "This counter is no longer here.")
    assert not browser.find_element(By.ID, "pause").is_displayed()
    assert [line.split()[0] for line in said(browser)] == [page]  # a 404, once


def test_a_counter_that_came_back_with_an_older_backup_stays_live(
    browser: webdriver.Chrome, page: str, shared: Database
) -> None:
    hit(page, 1234)
    wait_for(browser, "count", "1,234")
    shared.execute("UPDATE counter SET count = 7 WHERE name = %s", page.rpartition("/")[2])
    wait_for(browser, "count", "7")
    wait_for(browser, "state", "Live")
    hit(page, 1)
    wait_for(browser, "count", "8")
    button = browser.find_element(By.ID, "pause")  # without a stream, nothing says that it came back
    button.click()
    wait_for(browser, "state", "Paused")
    shared.execute("UPDATE counter SET count = 3 WHERE name = %s", page.rpartition("/")[2])
    button.click()
    wait_for(browser, "count", "3")
    hit(page, 1)
    wait_for(browser, "count", "4")


def test_a_page_can_be_paused(browser: webdriver.Chrome, page: str) -> None:
    button = browser.find_element(By.ID, "pause")
    button.click()
    wait_for(browser, "state", "Paused")
    hit(page, 5)
    assert browser.find_element(By.ID, "count").text == "0"
    button.click()
    wait_for(browser, "count", "5")
    wait_for(browser, "state", "Live")


def test_a_snippet_is_copied(browser: webdriver.Chrome, page: str) -> None:
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": permissions})
    button = browser.find_element(By.CSS_SELECTOR, ".snippet button")
    button.click()
    WebDriverWait(browser, LIMIT, 0.05).until(lambda _: button.text == "Copied")
    copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == f"![{page.rpartition('/')[2]}]({page}/badge.svg)"


def test_without_javascript_the_page_is_whole(browser: webdriver.Chrome, page: str) -> None:
    hit(page, 7)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page)
        assert browser.find_element(By.ID, "count").text == "7"
        assert browser.find_element(By.ID, "state").text == "Reload the page for the newest count."
        assert not browser.find_element(By.ID, "pause").is_displayed()
        browser.find_element(By.TAG_NAME, "summary").click()
        assert browser.find_element(By.CSS_SELECTOR, "td + td").text == "7"
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.fixture(scope="module")
def visits(shared: Database) -> str:
    """The path of a counter with a day's hits."""
    hours = [(NOW - timedelta(hours=ago), round(500 + 430 * math.sin(ago / 3.8) + 37 * (ago % 5))) for ago in range(24)]
    total = 1_284_000 + sum(hits for _, hits in hours)
    shared.execute("INSERT INTO counter (name, count, title) VALUES ('visits', %s, 'Visits')", total)
    for hour, hits in hours:
        insert = "INSERT INTO history SELECT id, %s, %s FROM counter WHERE name = 'visits'"
        shared.execute(insert, hour, hits)
    return "/counters/visits"


@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_no_violation_and_nothing_exceeds_the_screen(
    screen: str, browser: webdriver.Chrome, url: str, visits: str
) -> None:
    width, height, scheme = SCREENS[screen]
    set_screen(browser, scheme, width, height)
    for path in "/counters", "/counters/page", f"{visits}?by=day", "/counters/nobodys", "/readyz", visits:
        browser.get(url + path)
        if "/counters/" in path and "nobodys" not in path:
            wait_for(browser, "state", "Live")
        assert violations(browser) == [], path
        assert browser.execute_script("return document.documentElement.scrollWidth") == width, path
        assert [one for one in asked(browser) if not one.startswith(f"{url}/")] == []
    said(browser)  # the 404 that was asked for
    take_screenshot(browser, screen)
