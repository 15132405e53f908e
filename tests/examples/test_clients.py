"""docs/counter/clients.md: its examples print what it says, and its clients learn each number through every failure."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from harness.databases import Database
from service.platform.settings import ROOT
from tests.conftest import Start
from tests.counter.audit import audit
from tests.platform.test_tokens import make_token

pytestmark = [pytest.mark.any_database, pytest.mark.node]

CLIENTS = ROOT / "examples/clients"
BLOCK = re.compile(r"^```(sh|python|js)\n(.*?)^```\n\nprints\n\n^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = {"sh": ["bash", "-e"], "python": [sys.executable], "js": ["node"]}
FILES = {"sh": "example.sh", "python": "example.py", "js": "example.mjs"}

IN_PYTHON = """
import os
from tally import NotAnswered, Refused, Tally
tally = Tally(os.environ["URL"], timeout=2, patience=float(os.environ["PATIENCE"]))
try:
    print(tally.hit("visits").number)
except Refused as error:
    print("refused", error.type)
except NotAnswered as error:
    print("not answered", error.may_have_counted)
"""
IN_JAVASCRIPT = """
import { NotAnswered, Tally } from "./tally.mjs";
const tally = new Tally(process.env.URL, { timeout: 2, patience: Number(process.env.PATIENCE) });
try {
  console.log((await tally.hit("visits")).number);
} catch (error) {
  const isUnknown = error instanceof NotAnswered;
  console.log(isUnknown ? `not answered ${error.mayHaveCounted ? "True" : "False"}` : `refused ${error.type}`);
}
"""

Change = Callable[[bytes], bytes | None]
"""What becomes of an answer on its way to the client: None cuts the connection."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for client in CLIENTS.iterdir():
        if client.is_file():
            shutil.copy(client, tmp_path)
    return tmp_path


def test_the_examples_print_what_the_page_says(
    database: Database, start: Start, environment: dict[str, str], folder: Path
) -> None:
    made = make_token(environment, "examples", "--scope", "count", "--scope", "manage", "--print-only")
    service = start(API_TOKENS=made.stderr.splitlines()[-1])
    blocks = BLOCK.findall((ROOT / "docs/counter/clients.md").read_text())
    assert [language for language, _, _ in blocks] == list(COMMANDS)
    for language, code, printed in blocks:
        example = folder / FILES[language]
        example.write_text(code.replace("http://127.0.0.1:8080", service.url))
        ended = subprocess.run(
            [*COMMANDS[language], example.name],
            cwd=folder,
            env={**os.environ, "TOKEN": made.stdout.strip()},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ended.stdout, ended.stderr) == (printed, "")


def status(code: int, headers: str = "") -> Change:
    return lambda _answer: f"HTTP/1.1 {code} No\r\n{headers}Content-Length: 0\r\n\r\n".encode()


def lost(_answer: bytes) -> None:
    return None


def cut(answer: bytes) -> bytes:
    """Within the body; the connection is closed then."""
    return answer[:-3]


@asynccontextmanager
async def in_front_of(port: int, *changes: Change) -> AsyncIterator[str]:
    """Forwards each request on a connection of its own, and does one change after the other to the first answers."""
    left = list(changes)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        there, to_there = await asyncio.open_connection("127.0.0.1", port)
        to_there.write(re.sub(rb"\r\nconnection: [^\r]*", b"", head, flags=re.IGNORECASE)[:-2])
        to_there.write(b"Connection: close\r\n\r\n" + body)
        answer = await there.read()
        to_there.close()
        changed = left.pop(0)(answer) if left else answer
        if changed is not None:
            writer.write(changed)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert not left, "the client did not try so often"


async def run(folder: Path, language: str, url: str, patience: float = 30) -> str:
    """Returns what a program with the client in this language prints."""
    (folder / FILES[language]).write_text({"python": IN_PYTHON, "js": IN_JAVASCRIPT}[language])
    process = await asyncio.create_subprocess_exec(
        *COMMANDS[language],
        FILES[language],
        cwd=folder,
        env={**os.environ, "URL": url, "PATIENCE": str(patience)},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return printed.decode().strip()


async def test_a_client_sends_a_hit_until_its_number_is_known_and_it_is_counted_once(
    database: Database, start: Start, folder: Path
) -> None:
    service = start(API_TOKENS_REQUIRED="false", COUNTERS_AUTO_CREATE="true")
    failures = [status(502), lost, cut, status(504), status(524), status(200, "Content-Type: text/html\r\n")]
    for number, language in enumerate(("python", "js"), 1):
        async with in_front_of(service.port, *failures) as url:
            assert await run(folder, language, url) == str(number)
        assert audit(database, "visits") == number


async def test_a_client_says_whether_a_hit_without_an_answer_may_have_been_counted(
    database: Database, start: Start, folder: Path
) -> None:
    service = start(API_TOKENS_REQUIRED="false")
    for language in "python", "js":
        assert await run(folder, language, service.url) == "refused /problems/no-such-counter"
        for unknown in status(502), status(520), status(200):
            async with in_front_of(service.port, unknown) as url:  # and then 404
                assert await run(folder, language, url) == "not answered True"
        for other in status(404, "Content-Type: text/html\r\n"), status(400), status(308, "Location: /\r\n"):
            async with in_front_of(service.port, other) as url:
                assert await run(folder, language, url) == "refused about:blank"
        date = "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
        async with in_front_of(service.port, status(503, date)) as url:
            assert await run(folder, language, url) == "refused /problems/no-such-counter"
        async with in_front_of(service.port, status(503, "Retry-After: 1\r\n")) as url:
            assert await run(folder, language, url, patience=0.2) == "not answered False"
