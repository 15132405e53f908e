import gc

import pytest

from service.platform.gc_tuning import THRESHOLD
from tests.conftest import MakeApp

pytestmark = pytest.mark.any_database


async def test_the_collector_looks_less_often_while_the_application_serves_and_no_longer(make_app: MakeApp) -> None:
    before = gc.get_threshold()
    async with make_app().test_app():
        assert gc.get_threshold() == (THRESHOLD, *before[1:])
    assert gc.get_threshold() == before
