"""The rules of who may import whom (`[tool.importlinter]` in pyproject.toml) hold, and each catches what breaks it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.platform.settings import ROOT

APPLICATION, *_ = sorted({path.parent.name for path in ROOT.glob("service/*/__init__.py")} - {"platform"})
PACKAGES = "service", "migrations", "harness", "loadtests", "benchmarks", "tests"


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on the packages there and returns how it ended."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=directory, env={"COLUMNS": "200"}, capture_output=True, text=True)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A copy of the rules and of what they are about."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in PACKAGES:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    return tmp_path


def test_the_rules_hold() -> None:
    ended = lint_imports(ROOT)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("importer", "imported", "rule"),
    [
        ("service/platform/health.py", f"service.{APPLICATION}", "The platform imports nothing of the application"),
        ("service/platform/health.py", "service", "The platform imports nothing of the application"),
        ("service/platform/health.py", "migrations.env", "The migrations are Alembic's: nothing imports them"),
        ("service/platform/health.py", "harness", "The harness is for what tests and measures the service"),
        ("service/asgi.py", "loadtests.verdict", "Nothing but their tests and the benchmarks imports the load tests"),
        # --- counter
        ("loadtests/verdict.py", "benchmarks", "Nothing but their tests imports the benchmarks"),
        # --- end of counter
        ("harness/processes.py", "tests.conftest", "Nothing imports the tests"),
    ],
)
def test_an_import_against_a_rule_is_found(packages: Path, importer: str, imported: str, rule: str) -> None:
    if not (packages / imported.partition(".")[0]).exists():
        pytest.skip(f"there is no {imported} here")
    path = packages / importer
    path.write_text(f"import {imported}\n{path.read_text()}")
    ended = lint_imports(packages)
    assert ended.returncode == 1
    assert f"{rule} BROKEN" in ended.stdout, ended.stdout + ended.stderr


def test_a_new_package_of_the_service_must_be_given_its_place(packages: Path) -> None:
    (packages / "service/new").mkdir()
    (packages / "service/new/__init__.py").touch()
    ended = lint_imports(packages)
    assert ended.returncode == 1
    assert "service.new" in ended.stdout
