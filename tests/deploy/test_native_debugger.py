"""A debugger attaches to `./run up`, as an editor does it: by the Debug Adapter Protocol (.vscode/launch.json)."""

import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.native import Installation, installation
from harness.processes import free_port, wait_until

pytestmark = pytest.mark.native

Message = dict[str, Any]


class Debugger:
    """An editor's side of a session."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.stream = self.socket.makefile("rb")
        self.sent = 0
        self.kept: list[Message] = []

    def send(self, command: str, **arguments: object) -> int:
        """Sends a request and returns its number."""
        self.sent += 1
        body = json.dumps({"type": "request", "seq": self.sent, "command": command, "arguments": arguments}).encode()
        self.socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return self.sent

    def wait_for(self, key: str, value: object) -> Message:
        """Returns the first message that has that value there, and keeps those before it."""
        for number, message in enumerate(self.kept):
            if message.get(key) == value:
                return self.kept.pop(number)
        while (message := self.receive()).get(key) != value:
            self.kept.append(message)
        return message

    def receive(self) -> Message:
        length, _ = self.stream.readline(), self.stream.readline()
        message = json.loads(self.stream.read(int(length.split()[1])))
        assert isinstance(message, dict)
        return message

    def event(self, name: str) -> Message:
        return self.wait_for("event", name)

    def answer(self, number: int) -> Message:
        """Returns the answer to a request, which must have been granted."""
        message = self.wait_for("request_seq", number)
        assert message["success"], message
        return message

    def ask(self, command: str, **arguments: object) -> Mapping[str, Any]:
        body = self.answer(self.send(command, **arguments)).get("body") or {}
        assert isinstance(body, dict)
        return body


@contextmanager
def attached(port: int, breakpoints: Mapping[Path, int]) -> Iterator[Debugger]:
    """Attaches with breakpoints at those lines, and goes without a word at the end."""
    debugger = Debugger(port)
    with debugger.socket, debugger.stream:
        debugger.ask("initialize", adapterID="tests", pathFormat="path")
        attaching = debugger.send("attach", justMyCode=True)
        debugger.event("initialized")
        for path, line in breakpoints.items():
            set_ones = debugger.ask("setBreakpoints", source={"path": str(path)}, breakpoints=[{"line": line}])
            assert set_ones["breakpoints"][0]["verified"]
        debugger.ask("configurationDone")
        debugger.answer(attaching)
        yield debugger


@pytest.fixture(scope="module")
def debugged(tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]) -> Iterator[Installation]:
    """An installation in which a debugger listens."""
    port = str(free_port())
    with installation(
        tmp_path_factory.mktemp("native"), plain_environment, QUART_ENV="development", DEBUGGER_PORT=port
    ) as made:
        made.up()
        yield made
        assert made.interrupt() == 0
        assert made.processes() == []


def test_a_breakpoint_stops_a_request_and_shows_its_variables(debugged: Installation) -> None:
    port = int(debugged.settings["DEBUGGER_PORT"])
    assert f"a debugger can attach on 127.0.0.1:{port}" in debugged.output.read_text()
    path = debugged.directory / "service/platform/health.py"
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "def livez" in text) + 1
    with attached(port, {path: line}) as debugger, ThreadPoolExecutor(1) as browser:
        answered = browser.submit(httpx.get, f"{debugged.url}/livez", timeout=60)
        stopped = debugger.event("stopped")["body"]
        assert stopped["reason"] == "breakpoint"
        frame, *_ = debugger.ask("stackTrace", threadId=stopped["threadId"])["stackFrames"]
        assert (frame["name"], frame["line"]) == ("livez", line)
        assert debugger.ask("evaluate", expression="6 * 7", frameId=frame["id"])["result"] == "42"
        debugger.ask("setBreakpoints", source={"path": str(path)}, breakpoints=[])
        debugger.ask("continue", threadId=stopped["threadId"])
        assert answered.result().status_code == httpx.codes.OK


def test_a_debugger_can_come_and_go_and_code_is_reloaded_with_one_attached(debugged: Installation) -> None:
    port = int(debugged.settings["DEBUGGER_PORT"])
    before = set(debugged.program("spawn_main"))
    with attached(port, {}):
        (debugged.directory / "service/asgi.py").touch()
        wait_until(lambda: set(debugged.program("spawn_main")) - before)
        wait_until(debugged.answers)
    with attached(port, {}):
        assert debugged.answers()
    assert debugged.answers()


def test_in_production_a_debugger_is_refused(tmp_path: Path, plain_environment: dict[str, str]) -> None:
    with installation(tmp_path, plain_environment, DEBUGGER_PORT=str(free_port())) as made:
        ended = made.run("./run", "up")
        assert ended.returncode == 1
        assert "run: DEBUGGER_PORT is for QUART_ENV=development only" in ended.stdout
