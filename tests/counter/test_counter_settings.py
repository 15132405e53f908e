import sys

import pytest

from service.counter.settings import load_counter_settings
from service.platform.settings import ROOT, SettingsError
from tests.conftest import MakeApp
from tests.platform.test_settings import documented


def test_the_manual_shows_the_defaults(monkeypatch: pytest.MonkeyPatch, plain_environment: dict[str, str]) -> None:
    before = load_counter_settings()
    for line in (ROOT / ".quartenv.example").read_text().split("# ---- The counter")[1].split("# ----")[0].splitlines():
        name, equals, value = line.removeprefix("#").partition("=")
        if equals and name in documented():
            monkeypatch.setenv(name, value)
    assert load_counter_settings() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECEIPT_RETENTION", "3600"),
        ("LANE_BATCH_SIZE", "10001"),
        ("LANE_POOL_SIZE", "0"),
        ("LANE_QUEUE_SIZE", "many"),
        ("ROLL_UP_SCHEDULE", "hourly"),
    ],
)
def test_a_malformed_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_counter_settings()


@pytest.mark.any_database
async def test_the_list_of_crawlers_is_loaded_before_the_first_request_where_the_filter_is_on(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    for is_on in False, True:
        monkeypatch.delitem(sys.modules, "crawleruseragents", raising=False)
        async with make_app(BOT_FILTER=is_on).test_app():
            assert ("crawleruseragents" in sys.modules) is is_on
