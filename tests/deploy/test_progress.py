"""What long commands show of how far they are: on a terminal one line that is written over, elsewhere plain lines."""

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


@pytest.mark.parametrize(
    ("command", "expected"),
    [(SHELL, "-- 1\n-- 2\n-- done\n-- 2\nrun: broken\n"), (PYTHON, "-- 1\n-- 2\ndone\n")],
    ids=["shell", "python"],
)
def test_elsewhere_each_step_is_a_line(command: str, expected: str) -> None:
    ended = subprocess.run(command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.stdout == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (SHELL, "\r\x1b[K-- 1\r\x1b[K-- 1\r\x1b[K-- 2\r\x1b[K-- done\r\n\r\x1b[K-- 2\r\x1b[K-- 2\r\nrun: broken\r\n"),
        (PYTHON, "\r\x1b[K-- 1, 1 s\r\x1b[K-- 1, 1 s\r\x1b[K-- 2, 1 s\r\x1b[Kdone\r\n"),
    ],
    ids=["shell", "python"],
)
def test_on_a_terminal_a_step_takes_the_place_of_the_one_before(command: str, expected: str) -> None:
    """`script` gives the command a terminal."""
    ended = subprocess.run(
        ["script", "--quiet", "--command", command, "/dev/null"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert ended.stdout.decode() == expected
