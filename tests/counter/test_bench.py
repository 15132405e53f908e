import subprocess

import pytest

from service.settings import ROOT


@pytest.mark.native
def test_the_speed_is_measured_by_one_command() -> None:
    options = ["--rounds", "1", "--seconds", "1", "--connections", "8", "--no-write", "--only", "ceiling", "counter"]
    ended = subprocess.run(["./run", "speed", *options], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if line.startswith(("| ceiling | 8 |", "| counter | 8 |"))]
    assert [row.split("|")[-2].strip() for row in rows] == ["0", "0"], ended.stdout
