import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.platform.worker_metrics import WorkerMetrics, process_name

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

FORK = multiprocessing.get_context("fork")  # in a hundredth of the time that another start takes
Worker = multiprocessing.context.ForkProcess


def work(directory: Path, number: int, said: Connection) -> None:
    """Measures `number` of everything, writes it, says so, and stays until it is killed."""
    registry = CollectorRegistry()
    Counter("requests_total", "", ["route"], registry=registry).labels("/").inc(number)
    Histogram("seconds", "", buckets=[1], registry=registry).observe(number)
    for name in "sum", "largest", "own":
        Gauge(name, "", registry=registry).set(number)
    workers = WorkerMetrics(directory)
    workers.start()
    workers.write(registry.collect())
    said.send(read(workers))
    said.recv()


def read(workers: WorkerMetrics) -> dict[str, float]:
    """Returns the samples' values by their names and labels."""
    found = workers.read(maxima={"largest"}, own={"own"})
    return {f"{one.name}{''.join(one.labels.values())}": one.value for metric in found for one in metric.samples}


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[int], tuple[Worker, dict[str, float]]]]:
    """Starts a worker of this process; returns it, and what it read after its write."""
    begun = []

    def begin(number: int) -> tuple[Worker, dict[str, float]]:
        heard, said = FORK.Pipe()
        worker = FORK.Process(target=work, args=(tmp_path / "metrics", number, said))
        worker.start()
        begun.append((worker, heard, said))  # a pipe's end that is collected is closed
        return worker, heard.recv()

    yield begin
    for worker, _, _ in begun:
        worker.kill()
        worker.join()


def test_all_workers_are_added_up_and_what_one_has_counted_outlives_it(
    begin: Callable[[int], tuple[Worker, dict[str, float]]], tmp_path: Path
) -> None:
    first, _ = begin(1)
    second, found = begin(2)
    counts = {"requests_total/": 3, "seconds_bucket1.0": 1, "seconds_bucket+Inf": 2, "seconds_count": 2}
    assert found == {**counts, "seconds_sum": 3, "sum": 3, "largest": 2, "own": 2}
    second.kill()
    second.join()
    _, found = begin(0)
    gauges = {"sum": 1, "largest": 1, "own": 0}
    assert found == {
        "requests_total/": 3,
        "seconds_bucket1.0": 2,
        "seconds_bucket+Inf": 3,
        "seconds_count": 3,
        "seconds_sum": 3,
        **gauges,
    }
    assert first.is_alive()


def test_workers_that_are_replaced_often_leave_no_files_and_lose_no_counts(
    begin: Callable[[int], tuple[Worker, dict[str, float]]], tmp_path: Path
) -> None:
    for turn in range(1, 4):
        worker, found = begin(1)
        assert found["requests_total/"] == turn
        worker.kill()
        worker.join()
    begin(1)
    (master,) = (tmp_path / "metrics").iterdir()
    assert len(list(master.iterdir())) == 3  # a worker, the sums of those that have ended, the lock


def test_an_ended_workers_counts_are_added_once_even_if_its_file_is_still_there(
    begin: Callable[[int], tuple[Worker, dict[str, float]]], tmp_path: Path
) -> None:
    worker, _ = begin(7)
    (master,) = (tmp_path / "metrics").iterdir()
    (file,) = master.glob("[0-9]*")
    content = file.read_bytes()
    worker.kill()
    worker.join()
    for _ in range(2):
        _, found = begin(0)
        assert found["requests_total/"] == 7
        file.write_bytes(content)  # as if it had been killed before it removed the file


def test_a_start_removes_what_ended_masters_have_left_and_nothing_of_others(tmp_path: Path) -> None:
    for name in "999999999-1", f"{os.getppid()}-1", process_name(os.getppid()):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ended").touch()
    WorkerMetrics(tmp_path).start()
    assert {path.name for path in tmp_path.iterdir()} == {process_name(os.getppid()), process_name(os.getpid())}


def test_a_directory_that_is_gone_is_made_again_for_its_user_alone(tmp_path: Path) -> None:
    workers, registry = WorkerMetrics(tmp_path / "metrics"), CollectorRegistry()
    Counter("requests_total", "", registry=registry).inc()
    workers.start()
    workers.write(registry.collect())
    shutil.rmtree(tmp_path / "metrics")
    workers.write(registry.collect())
    assert read(workers) == {"requests_total": 1}
    assert (tmp_path / "metrics").stat().st_mode & 0o777 == 0o700
