"""The files that editors and services read: they are well-formed, and leave the doing to ./run and .ci/run."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from service.platform.settings import ROOT

TASKS = set(re.findall(r"^\./run ([a-z-]+)", subprocess.check_output([ROOT / "run"], text=True), re.MULTILINE))
SERVICES = [".gitlab-ci.yml", ".pre-commit-config.yaml", *map(str, (ROOT / ".github/workflows").glob("*.yml"))]


def commands(path: str) -> list[str]:
    """Returns the commands that the service with that file runs, one line each."""
    text = (ROOT / path).read_text()
    scripts = re.findall(r"^ +script:\n((?: +- .*\n)+)", text, re.MULTILINE)
    return [
        *re.findall(r"^ +(?:- )?(?:run|entry): (?!\|)(.+)", text, re.MULTILINE),
        *(line.strip(" -") for script in scripts for line in script.splitlines()),
    ]


@pytest.mark.parametrize("path", SERVICES)
def test_a_service_runs_tasks_only(path: str) -> None:
    assert commands(path)
    for command in commands(path):
        program, *task = command.split()
        assert program == ".ci/run" or (program == "./run" and task[0] in TASKS), command


def test_every_action_is_pinned_by_its_digest_with_the_version_beside_it() -> None:
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for action in re.findall(r"uses: (.+)", path.read_text()):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_a_clone_has_the_line_ends_of_here_whatever_git_is_told_to_write(tmp_path: Path) -> None:
    git = ["git", "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run([*git, "init", "--quiet", tmp_path], check=True)
    for name in ".gitattributes", "run", "nginx.conf":
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
    for name in "run", "nginx.conf":
        (tmp_path / name).unlink()
    subprocess.run([*git, "checkout", "--quiet", "."], cwd=tmp_path, check=True)
    for name in "run", "nginx.conf":
        assert b"\r" not in (tmp_path / name).read_bytes()


def test_every_update_waits_for_a_release_to_cool_down() -> None:
    text = (ROOT / ".github/dependabot.yml").read_text()
    for update in text.split("  - package-ecosystem: ")[1:]:
        assert "cooldown:\n      default-days: 7\n" in update
        (directory,) = re.findall(r"^ +directory: /(.*)$", update, re.MULTILINE)
        assert (ROOT / directory).is_dir()


@pytest.mark.parametrize(
    "path", [".devcontainer/devcontainer.json", *(f".vscode/{name}.json" for name in ("launch", "tasks"))]
)
def test_an_editor_can_read_it_and_runs_tasks_only(path: str) -> None:
    made = json.loads((ROOT / path).read_text())
    shell = [made.get("postCreateCommand"), *(task["command"] for task in made.get("tasks", []))]
    for command in filter(None, shell):
        program, task, *_ = command.split()
        assert program == "./run"
        assert task in TASKS


def test_the_editors_debugger_attaches_where_its_task_has_one_listen() -> None:
    read = {name: json.loads((ROOT / f".vscode/{name}.json").read_text()) for name in ("launch", "tasks", "settings")}
    up = next(task for task in read["tasks"]["tasks"] if task["label"] == "up")
    attaching = [one for one in read["launch"]["configurations"] if one["request"] == "attach"]
    assert {str(one["connect"]["port"]) for one in attaching} == {up["options"]["env"]["DEBUGGER_PORT"]}
    assert {one["connect"]["host"] for one in attaching} == {"127.0.0.1"}
    said = (ROOT / "deploy/native/up").read_text()
    for pattern in (
        up["problemMatcher"]["background"]["beginsPattern"],
        up["problemMatcher"]["background"]["endsPattern"],
    ):
        assert f'say "{pattern.removeprefix("^-- ")}' in said
    assert Path(read["settings"]["python.defaultInterpreterPath"]).parts[1:] == (".venv", "bin", "python")
