"""The metrics of all workers of a replica together: each worker writes its own to a file, and the one that is asked
adds all of them up.

Not prometheus_client's own multiprocess mode: it maps its files into memory, so that a worker is killed by SIGBUS when
their disk is full. Here a write that fails leaves the file as it was.

    DIRECTORY/MASTER/WORKER    what a worker has measured, written anew each second
    DIRECTORY/MASTER/ended     the sums of those that have ended
    DIRECTORY/MASTER/lock      held by whoever reads all, or moves an ended worker's sums

MASTER and WORKER are a process's id and start. What a master has left that runs no longer is removed when the next
one's workers start.
"""

import contextlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from prometheus_client import Metric

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and its labels."""


class Family(msgspec.Struct, array_like=True):
    """A metric with all its samples."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[Series, float]]

    @property
    def counts(self) -> bool:
        """Whether it only grows, and is still true when its worker has ended."""
        return self.type in ("counter", "histogram", "summary")


class _Ended(msgspec.Struct):
    """The sums of workers that have ended. The files of `workers` are in them, and may still be there."""

    workers: set[str]
    families: list[Family]


class WorkerMetrics:
    """This worker's file, and those of the others. All methods raise OSError where the directory cannot be used.

    None waits for another worker: `read` raises BlockingIOError while one has the lock.
    """

    def __init__(self, directory: Path) -> None:
        master = multiprocessing.parent_process()
        self._directory = directory
        self._master = directory / process_name(os.getpid() if master is None or not master.pid else master.pid)
        self._own = self._master / process_name(os.getpid())

    def start(self) -> None:
        """Removes what masters have left that have ended, and moves the sums of this one's ended workers."""
        self._make_directory()
        for other in self._directory.iterdir():
            if other != self._master and not is_running(other.name):
                shutil.rmtree(other, ignore_errors=True)  # another worker may be at it
        with contextlib.suppress(BlockingIOError), self._locked():  # else whoever has the lock does it
            self._move_ended()

    def write(self, metrics: Iterable[Metric]) -> None:
        """Writes this worker's file anew."""
        content = msgspec.msgpack.encode([_family_of(metric) for metric in metrics])
        try:
            _replace(self._own, content)
        except FileNotFoundError:
            self._make_directory()
            _replace(self._own, content)

    def read(self, *, maxima: Collection[str], own: Collection[str]) -> list[Metric]:
        """Returns the metrics of all workers, and the counts of those that have ended, added up.

        Of the gauges named in `maxima` the largest value counts, and of those in `own` this worker's alone.
        """
        joined = _Joined()
        with self._locked():
            joined.add(self._move_ended().families)
            for path in self._workers():
                others = () if path == self._own else own
                joined.add((family for family in _read(path) if family.name not in others), maxima)
        return [_metric_of(family) for family in joined.families()]

    def _make_directory(self) -> None:
        for directory in self._directory.parent, self._directory, self._master:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _workers(self) -> list[Path]:
        return [path for path in self._master.iterdir() if path.name[0].isdecimal()]

    def _move_ended(self) -> _Ended:
        """Adds to `ended` what workers have counted that have ended since, and removes their files. Under the lock.

        It may be killed in here: files that are left then are named in `ended`, and not added a second time.
        """
        ended, path = _Ended(set(), []), self._master / "ended"
        with contextlib.suppress(FileNotFoundError):
            ended = msgspec.msgpack.decode(path.read_bytes(), type=_Ended)
        files = [file for file in self._workers() if not is_running(file.name)]
        if new := [file for file in files if file.name not in ended.workers]:
            joined = _Joined()
            for families in ended.families, *map(_read, new):
                joined.add(family for family in families if family.counts)
            ended = _Ended({file.name for file in files}, joined.families())
            _replace(path, msgspec.msgpack.encode(ended))
        for file in files:
            file.unlink()
        return ended

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if sys.platform == "win32":
            yield
            return
        import fcntl  # noqa: PLC0415  # not on Windows

        with (self._master / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(error.errno, "Another worker has the lock") from None
            yield


class _Joined:
    """Metrics of several workers, added up."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Family, dict[Series, float]]] = {}

    def add(self, families: Iterable[Family], maxima: Collection[str] = ()) -> None:
        for family in families:
            _, values = self._found.setdefault(family.name, (family, {}))
            for series, value in family.samples:
                if series not in values:
                    values[series] = value
                elif family.name in maxima:
                    values[series] = max(values[series], value)
                else:
                    values[series] += value

    def families(self) -> list[Family]:
        return [
            Family(family.name, family.documentation, family.type, list(values.items()))
            for family, values in self._found.values()
        ]


def process_name(pid: int) -> str:
    """Returns the process's id and start, "" if it has ended. The start is known on Linux only."""
    if sys.platform != "linux":
        return f"{pid}-0"
    try:
        _, _, stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except OSError:
        return ""
    state, *fields = stat.split()
    return "" if state in "ZX" else f"{pid}-{fields[18]}"


def is_running(name: str) -> bool:
    """Whether the process of that name runs; elsewhere than on Linux it is taken to run."""
    pid, _, _ = name.partition("-")
    return pid.isdecimal() and process_name(int(pid)) == name


def _read(path: Path) -> list[Family]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Family])


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}")
    try:
        new.write_bytes(content)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _family_of(metric: Metric) -> Family:
    samples = [((one.name, tuple(one.labels.items())), float(one.value)) for one in metric.samples]
    return Family(metric.name, metric.documentation, metric.type, samples)


def _metric_of(family: Family) -> Metric:
    metric = Metric(family.name, family.documentation, family.type)
    for (name, labels), value in family.samples:
        metric.add_sample(name, dict(labels), value)
    return metric
