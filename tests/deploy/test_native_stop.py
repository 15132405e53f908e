"""How `./run up` ends, whoever ends it, and that the next one goes on from there."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.native import Installation, installation
from harness.processes import wait_until

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("native"), plain_environment) as made:
        made.up()
        assert made.interrupt() == 0
        yield made


@pytest.fixture
def stopped(kept: Installation) -> Iterator[Installation]:
    """An installation that has run before, and does not run now."""
    yield kept
    kept.clear()


def test_the_second_start_installs_and_makes_nothing_again(stopped: Installation) -> None:
    stopped.up()
    assert "installing" not in stopped.output.read_text()
    assert "making .venv" not in stopped.output.read_text()
    assert stopped.interrupt() == 0


def test_ctrl_c_stops_nginx_then_hypercorn_then_the_database_and_leaves_nothing(stopped: Installation) -> None:
    log = stopped.directory / ".run/logs/supervisord.log"
    stopped.up()
    started = len(log.read_text())
    assert stopped.interrupt() == 0
    assert stopped.processes() == []
    stopped_ones = [line.partition("stopped: ")[2] for line in log.read_text()[started:].splitlines()]
    # The migration job may be ending still: where the schema is there it answers before.
    assert [one for one in stopped_ones if one and not one.startswith("migrate")] == [
        "nginx (exit status 0)",
        "hypercorn (exit status 0)",
        "mariadb (exit status 0)",
    ]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP], ids=lambda ending: ending.name)
def test_a_signal_to_run_alone_stops_everything_and_ends_with_0(stopped: Installation, ending: signal.Signals) -> None:
    stopped.up().send_signal(ending)
    assert stopped.started[-1].wait(60) == 0
    assert stopped.processes() == []


def test_a_stop_before_the_first_answer_leaves_nothing(stopped: Installation) -> None:
    process = stopped.begin()
    wait_until(lambda: stopped.program("supervisord"), process=process)
    assert stopped.interrupt() == 0
    assert stopped.processes() == []


def test_a_killed_supervisor_takes_everything_with_it_and_run_says_so(stopped: Installation) -> None:
    process = stopped.up()
    stopped.program("supervisord")[0].kill()
    assert process.wait(60) == 1
    assert "The supervisor ended unexpectedly" in stopped.output.read_text()
    wait_until(lambda: stopped.processes() == [])  # Python's resource tracker ends after those whom it watches
    stopped.up()
    assert stopped.interrupt() == 0


def test_after_a_kill_of_run_everything_ends_and_the_next_up_waits_for_that(stopped: Installation) -> None:
    stopped.up().kill()
    stopped.up()
    assert len(stopped.program("supervisord")) == 1
    assert stopped.interrupt() == 0
    assert stopped.processes() == []


def test_after_a_kill_of_every_process_the_next_up_just_works(stopped: Installation) -> None:
    stopped.up()
    stopped.kill()
    stopped.up()
    assert stopped.interrupt() == 0
    assert stopped.processes() == []


def test_what_is_half_made_or_broken_is_made_again(tmp_path: Path, plain_environment: dict[str, str]) -> None:
    with installation(tmp_path, plain_environment) as made:
        (made.directory / ".venv").unlink()
        (made.directory / ".venv/bin").mkdir(parents=True)
        (made.directory / ".venv/bin/python").write_text("half")
        shutil.copy(made.directory / "requirements/native.txt", made.directory / ".venv/requirements.txt")
        (made.directory / ".run/mariadb/data.new/mysql").mkdir(parents=True)
        (made.directory / ".run/mariadb/data.new/ibdata1").write_text("half")
        made.up()
        assert made.answers()
        assert made.interrupt() == 0
