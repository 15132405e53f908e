"""The access log in a pipe, as in a container and below a supervisor; several workers write it."""

import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from types import MappingProxyType

import pytest

from harness.nginx import Nginx, Upstream, nginx, path_with, upstream, workers_of
from harness.processes import wait_until

pytestmark = pytest.mark.nginx

SEVERAL = 16
"""Processors for which nginx has several workers."""

LONGEST = 4096
"""Bytes of a write to a pipe that no other is mixed with (PIPE_BUF)."""

CONTROL = bytes(set(range(1, 32)) - set(b"\r\n"))
PLAIN = {"uri": b"/", "referrer": b"r", "user_agent": b"u", "host": b"h", "method": b"GET", "protocol": b"HTTP/1.1"}


@pytest.fixture
def service() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


class Log:
    """What has come out of the pipe."""

    def __init__(self) -> None:
        self.written = b""

    def lines(self) -> list[bytes]:
        return self.written.splitlines(keepends=True)

    def read(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.lines()]


@contextmanager
def logging_to_a_pipe(
    directory: Path,
    *upstreams: str,
    processors: int = SEVERAL,
    edit: Mapping[str, str] = MappingProxyType({}),
    certificates: Path | None = None,
    **settings: str,
) -> Iterator[tuple[Nginx, Log]]:
    """Runs nginx as on so many processors; at the end of the block all that it wrote has been read."""
    log = Log()
    settings["PATH"] = path_with(processors, directory)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, LONGEST)  # so that larger writes are made in parts, which mix

    def read() -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while data := pipe.read(65536):
                log.written += data

    thread = Thread(target=read)
    thread.start()
    try:
        with (
            os.fdopen(writing, "wb") as pipe,
            nginx(
                directory, *upstreams, edit=edit, stdout=pipe.fileno(), certificates=certificates, **settings
            ) as proxy,
        ):
            pipe.close()
            yield proxy, log
    finally:
        thread.join()


def request(number: int, **parts: bytes) -> bytes:
    """Returns a request with the number as the longest request id, and with these parts of what is logged."""
    sent = {**PLAIN, **parts}
    return b"%(method)b %(uri)b %(protocol)b\r\nHost: %(host)b\r\n" % {
        name.encode(): value for name, value in sent.items()
    } + b"Referer: %b\r\nUser-Agent: %b\r\nX-Request-ID: %0128d\r\nConnection: close\r\n\r\n" % (
        *(sent["referrer"], sent["user_agent"], number),
    )


WILD: tuple[dict[str, bytes], ...] = (
    {},
    {"uri": b"/" + b"x" * 8000},
    {"uri": b'/"' * 4000},
    {"uri": b"/" + b"\\" * 8000},
    {"referrer": b'"' * 7000, "user_agent": b"\\" * 7000},
    {"referrer": CONTROL * 200, "user_agent": CONTROL * 200},
    {"referrer": b"\xff", "user_agent": b'"\x7f' + CONTROL},
    {"host": b'"' * 8000},
    {"method": b"A" * 8000},
    {"protocol": b"HTTP/1." + b"0" * 7000 + b"1"},
    {"protocol": b"HTTP/1.1" + b" " * 7000},
    {
        "method": b"LONGER_THAN_ANY_METHOD_THAT_THERE_IS",
        "uri": b"/" + b'"' * 2000,
        "referrer": b"\\" * 2000,
        "user_agent": b'"\\' * 1000,
        "host": b'"' * 500,
        "protocol": b"HTTP/1." + b"0" * 500 + b"1",
    },
)


@pytest.mark.parametrize(("processors", "workers"), [(1, 1), (SEVERAL, 4)])
def test_each_request_has_one_whole_line_whatever_many_clients_send_at_once(
    processors: int, workers: int, service: Upstream, tmp_path: Path
) -> None:
    sent = [request(number, **WILD[number % len(WILD)]) for number in range(40 * len(WILD))]
    with (
        logging_to_a_pipe(tmp_path, service.address, processors=processors) as (proxy, log),
        ThreadPoolExecutor(16) as threads,
    ):
        wait_until(lambda: len(workers_of(tmp_path)) == workers)
        assert all(threads.map(proxy.exchange, sent))
    assert max(len(line) for line in log.lines()) <= LONGEST
    assert sorted(int(line["request_id"]) for line in log.read()) == list(range(len(sent)))


def test_the_longest_line_is_one_write(tmp_path: Path) -> None:
    nowhere = [f"127.0.0.{number}:1" for number in range(101, 109)]
    address = "2001:db8:1111:2222:3333:4444:5555:6666"
    with logging_to_a_pipe(tmp_path, *nowhere, TRUSTED_BALANCERS="127.0.0.1") as (proxy, log):
        sent = request(1, **WILD[-1]).replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: %b\r\n\r\n" % address.encode())
        assert b" 503 " in proxy.exchange(sent)
    (line,) = log.read()
    assert (line["client"], line["upstream_status"]) == (address, " : ".join(["502"] * 8))
    assert LONGEST - 500 < len(log.written) <= LONGEST


@pytest.mark.parametrize(("name", "longest"), [("uri", 1640), ("referrer", 550), ("user_agent", 400), ("host", 260)])
def test_what_a_client_sends_is_cut_and_at_half_the_length_where_it_takes_twice_the_bytes(
    name: str, longest: int, service: Upstream, tmp_path: Path
) -> None:
    whole = ("/" if name == "uri" else "x") + "x" * (longest - 1)
    half = whole[: longest // 2]
    logged = {whole: whole, whole + "xx": whole, whole + '"': half, half + '"': half, half[:9] + "\\": half[:9] + "\\"}
    with logging_to_a_pipe(tmp_path, service.address) as (proxy, log):
        for number, sent in enumerate(logged):
            proxy.exchange(request(number, **{name: sent.encode()}))
    lines = sorted(log.read(), key=lambda line: line["request_id"])
    assert [line[name] for line in lines] == list(logged.values())


@pytest.mark.parametrize("name", ["uri", "referrer"])
def test_no_line_has_the_query_of_an_address(name: str, service: Upstream, tmp_path: Path) -> None:
    with logging_to_a_pipe(tmp_path, service.address) as (proxy, log):
        for query in b"?a=secret", b"?secret", b"?" + b'"' * 900 + b"secret", b"?\xff=secret":
            proxy.exchange(request(1, **{name: b"/path" + query}))
        proxy.exchange(request(1, uri=b"/path", referrer=b"/path#secret"))
    assert b"secret" not in log.written
    assert [line[name] for line in log.read()] == ["/path"] * 5


def test_the_error_log_is_json_in_utf_8_without_the_query_of_an_address(service: Upstream, tmp_path: Path) -> None:
    """Of a disk that is full, for one: here the folder for large bodies is missing."""
    with nginx(tmp_path, service.address, edit={"client_body_buffer_size 64k": "client_body_buffer_size 1k"}) as proxy:
        (tmp_path / "client_body").rmdir()
        sent = request(1, method=b"POST", uri=b"/path?a=secret", host=b"h\xff", referrer=b'\xff"?b=secret c=secret')
        proxy.exchange(sent.replace(b"\r\n\r\n", b"\r\nContent-Length: 50000\r\n\r\n") + b"x" * 50000)
        wait_until(lambda: len(proxy.log()) == 2)
    (line,) = (line for line in proxy.log() if line["event"] != "request")
    assert line["level"] == "critical"
    assert "client_body" in str(line["event"])
    assert 'request: "POST /path HTTP/1.1"' in str(line["event"])
    assert "secret" not in proxy.output.read_bytes().decode()


def test_times_are_in_utc_wherever_it_runs(service: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    begun = datetime.now(UTC)
    with logging_to_a_pipe(tmp_path, service.address) as (proxy, log):
        proxy.get()
    (line,) = log.read()
    assert line["time"].endswith("+00:00")
    assert begun - timedelta(seconds=1) < datetime.fromisoformat(line["time"]) < datetime.now(UTC)


def test_a_line_comes_without_another_request(service: Upstream, tmp_path: Path) -> None:
    with logging_to_a_pipe(tmp_path, service.address) as (proxy, log):
        proxy.get("/")
        wait_until(log.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_loses_no_line(number: signal.Signals, service: Upstream, tmp_path: Path) -> None:
    with logging_to_a_pipe(tmp_path, service.address, edit={"flush=1s": "flush=1h"}) as (proxy, log):
        for _ in range(20):
            proxy.get("/")
        assert len(log.lines()) < 20
        master = int((tmp_path / "nginx.pid").read_text())
        os.kill(master, number)
        wait_until(lambda: not (tmp_path / "nginx.pid").exists())
    assert len(log.read()) == 20
