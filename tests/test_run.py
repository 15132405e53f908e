"""The task runner's own face, and what it keeps: pins that are whole and name no address."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.platform.settings import ROOT


def run(*arguments: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs ./run from `directory` and returns how it ended."""
    return subprocess.run([ROOT / "run", *arguments], cwd=directory, capture_output=True, text=True)


def test_alone_and_with_help_it_lists_every_task_with_what_it_does(tmp_path: Path) -> None:
    listed = run(directory=tmp_path)
    assert listed.returncode == 0
    assert run("help").stdout == listed.stdout
    tasks = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    assert {
        "up",
        "backup",
        "restore",
        "rotate",
        "status",
        "install",
        "test",
        "lint",
        "lock",
        "logs",
        "quart",
        "shell",
        "db",
        "migrate",
        "load",
        "help",
    } <= {task for _, task, _ in tasks}
    assert all(what for _, _, what in tasks)


@pytest.mark.parametrize("task", ["launch", "fail", "-x", ".*", "up up"])
def test_what_is_no_task_is_told(task: str) -> None:
    ended = run(task)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"run: There is no task {task}; ./run lists them.\n"


@pytest.mark.parametrize("name", ["100%", "a:b", "two\nlines"])
def test_a_folder_in_which_nothing_could_run_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / name / "deploy")
    shutil.copy(ROOT / "run", tmp_path / name)
    ended = subprocess.run([tmp_path / name / "run"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("run: Cannot run in ")
    assert ended.stderr.count("\n") == 1


# --- counter
@pytest.mark.parametrize(
    ("task", "now"), [("tokens", "quart tokens"), ("receipts", "quart receipts"), ("speed", "bench")]
)
def test_a_task_of_an_earlier_version_is_answered_by_its_name_of_today(task: str, now: str) -> None:
    ended = run(task, "--help")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"run: ./run {task} is ./run {now} now.\n"


# --- end of counter


def test_up_takes_no_arguments() -> None:
    ended = run("up", "--detach")
    assert ended.returncode == 1
    assert ended.stderr.startswith("run: up takes no arguments")


@pytest.mark.parametrize(
    ("task", "argument"),
    [("deploy", "--help"), ("deploy", "--pull"), ("rollback", "--help"), ("rotate", "--help")],
)
def test_what_would_change_what_serves_does_nothing_with_an_argument_that_it_does_not_know(
    task: str, argument: str
) -> None:
    ended = run(task, argument)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"run: usage: ./run {task}")


@pytest.mark.parametrize("name", ["production", "native", "dev", "audit"])
def test_every_requirement_is_pinned_with_hashes_and_without_an_address(name: str) -> None:
    pins = (ROOT / f"requirements/{name}.txt").read_text()
    assert "://" not in pins
    pinned = re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==\S+( ; .*)? \\\n    --hash=sha256:", pins, re.MULTILINE)
    assert len(pinned) == len(set(pinned)) == len(re.findall(r"^\w", pins, re.MULTILINE))
    names = [package for package, _ in pinned]
    for package, marker in pinned:  # one version, unless a newer one is for newer Pythons alone
        assert names.count(package) == 1 or "python_full_version" in marker, package
    named = re.findall(r"^[a-z]+[a-z0-9-]*", (ROOT / f"requirements/{name}.in").read_text(), re.MULTILINE)
    assert set(named) <= set(names)


def test_a_larger_set_of_requirements_holds_the_smaller_with_the_same_versions() -> None:
    sets = [
        set(re.findall(r"^[a-z0-9-]+==[^\s]+", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))
        for name in ("production", "native", "dev")
    ]
    assert sets[0] < sets[1] < sets[2]


def test_audit_can_read_all_pins() -> None:
    ended = run("audit", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert "-- requirements/production.txt" in ended.stdout
    assert "have audited" in ended.stderr


@pytest.mark.nginx
def test_nginx_takes_its_configuration_with_the_default_settings() -> None:
    assert run("check-nginx").returncode == 0
