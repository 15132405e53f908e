"""What `./run logs` makes of the lines of a log on a terminal."""

import json

import pytest

from deploy.readable_logs import readable

pytestmark = pytest.mark.any_database

TIME = "2026-11-26T20:46:13.123456Z"
LINE = {"time": TIME, "level": "warning", "event": "not ready: ä", "worker": 7, "request_id": None}


@pytest.mark.parametrize("before", ["", "web-1    | "])
def test_a_line_of_json_is_text(before: str) -> None:
    line = before + json.dumps(LINE) + "\n"
    assert readable(line) == f"{before}20:46:13.123 warning  not ready: ä  worker=7"


def test_a_request_is_its_method_address_and_status() -> None:
    line = {"time": TIME, "level": "info", "event": "request", "method": "GET", "uri": "/a", "status": "200"}
    assert readable(json.dumps(line)).startswith("20:46:13.123 info     GET /a 200  ")


def test_a_line_of_mysqls_is_as_all_others() -> None:
    line = {"prio": 2, "err_code": 1, "msg": "no room", "time": TIME, "label": "Warning"}
    assert readable(json.dumps(line)) == "20:46:13.123 warning  no room"


def test_a_line_of_prometheus_is_as_all_others() -> None:
    line = {"ts": "2026-11-26T20:46:13.123Z", "caller": "main.go:1", "level": "error", "msg": "no room", "err": "full"}
    assert readable(json.dumps(line)) == "20:46:13.123 error    no room  caller=main.go:1 err=full"


def test_a_traceback_has_lines_of_its_own() -> None:
    assert readable(json.dumps({**LINE, "exception": "a\n  b"})).splitlines()[1:] == ["a", "  b"]


@pytest.mark.parametrize("line", ["==> .run/logs/nginx.log <==", "", "2026-11-26 [Note] x {1}", "{", '{"a": 1}', "[1]"])
def test_any_other_line_stays_as_it_is(line: str) -> None:
    assert readable(line + "\n") == line


def test_what_a_client_sent_does_nothing_to_the_terminal() -> None:
    for line in json.dumps({**LINE, "event": "\x1b[2J", "user\x07": "\x9b"}), "\x1b[2J":
        assert readable(line).isprintable()
