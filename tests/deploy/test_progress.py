"""What long commands show of how far they are: on a terminal one line that is written over, elsewhere plain lines."""

import re
import subprocess
import sys

import pytest

from service.platform.settings import ROOT

pytestmark = pytest.mark.any_database

SHELL = "bash -c '. deploy/native/common.sh; show 1; show 1; show 2; say done; show 2; fail broken'"
PYTHON = f"""{sys.executable} -c '
from deploy.native.wait_until_ready import _show
for step in "1", "1", "2", "": _show(step, 0.6)
print("done")'"""
JOB = f"""{sys.executable} -c '
import threading
from deploy.backup import progress
progress.ON_A_TERMINAL = progress.ELSEWHERE = 0.01
asked, over = [], threading.Event()
def done():
    asked.append(1)
    if len(asked) == 2:
        raise FileNotFoundError
    if len(asked) == 4:
        over.set()
    return 4e6
with progress.progress(8e6, done):
    over.wait(30)
progress.say("done")'"""
STEP = r"-- 4\.0 MB of 8\.0 MB, [0-9,]+\.[0-9] MB/s, [0-9]+ s left"


def elsewhere(command: str) -> str:
    """Returns what the command prints where it has no terminal."""
    ended = subprocess.run(command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return ended.stdout


def on_a_terminal(command: str) -> str:
    """Returns what the command prints on the terminal that `script` gives it."""
    script = ["script", "--quiet", "--command", command, "/dev/null"]
    ended = subprocess.run(script, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    return ended.stdout.decode()


@pytest.mark.parametrize(
    ("command", "expected"),
    [(SHELL, "-- 1\n-- 2\n-- done\n-- 2\nrun: broken\n"), (PYTHON, "-- 1\n-- 2\ndone\n")],
    ids=["shell", "python"],
)
def test_elsewhere_each_step_is_a_line(command: str, expected: str) -> None:
    assert elsewhere(command) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (SHELL, "\r\x1b[K-- 1\r\x1b[K-- 1\r\x1b[K-- 2\r\x1b[K-- done\r\n\r\x1b[K-- 2\r\x1b[K-- 2\r\nrun: broken\r\n"),
        (PYTHON, "\r\x1b[K-- 1, 1 s\r\x1b[K-- 1, 1 s\r\x1b[K-- 2, 1 s\r\x1b[Kdone\r\n"),
    ],
    ids=["shell", "python"],
)
def test_on_a_terminal_a_step_takes_the_place_of_the_one_before(command: str, expected: str) -> None:
    assert on_a_terminal(command) == expected


def test_a_backups_step_says_how_much_of_it_is_done_its_rate_and_the_time_left() -> None:
    assert re.fullmatch(rf"({STEP}\n){{3,}}-- done\n", elsewhere(JOB))
    assert re.fullmatch(rf"(\r\x1b\[K{STEP}){{3,}}\r\x1b\[K-- done\r\n", on_a_terminal(JOB))
