"""Which Python `./run` takes, and when it makes .venv again."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.platform.settings import ROOT

SUPPORTED = re.findall(
    r"3\.\d+", re.findall(r"^supported=\((.*)\)$", (ROOT / "deploy/native/newest_python").read_text(), re.M)[0]
)
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


def python(path: Path, version: str, body: str = "exit 0") -> Path:
    """Makes a program that answers as a Python of that version would when it is asked what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n[ "$4" = {version} ] || exit 3\n{body}\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a folder `bin`, which has the commands of the search and no Python."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in "bash", "env", "dirname", "sort", "id":
        (commands / name).symlink_to(shutil.which(name) or "")
    return tmp_path


def search(home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the search with the commands of `home` only."""
    return subprocess.run(
        [ROOT / "deploy/native/newest_python"],
        env={"PATH": str(home / "bin"), "HOME": str(home), **settings},
        capture_output=True,
        text=True,
    )


def test_the_supported_versions_are_those_of_pyproject_the_newest_first() -> None:
    minors = [int(version.partition(".")[2]) for version in SUPPORTED]
    assert minors == sorted(minors, reverse=True)
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert requires == f">=3.{minors[-1]},<3.{minors[0] + 1}"


@pytest.mark.parametrize(
    "place",
    [
        "bin/python{version}",
        "bin/python3",
        ".pyenv/versions/{version}.4/bin/python3",
        ".local/share/uv/python/cpython-{version}.4-linux-x86_64-gnu/bin/python3",
    ],
)
def test_the_newest_is_found_on_path_and_among_those_of_pyenv_and_uv(home: Path, place: str) -> None:
    python(home / f"bin/python{SUPPORTED[-1]}", SUPPORTED[-1])
    newest = python(home / place.format(version=SUPPORTED[0]), SUPPORTED[0])
    found = search(home)
    assert (found.stdout, found.stderr) == (f"{newest}\n", "")


def test_of_two_of_one_version_the_newest_patch_is_taken(home: Path) -> None:
    for patch in 9, 10:
        python(home / f".pyenv/versions/{SUPPORTED[0]}.{patch}/bin/python3", SUPPORTED[0])
    assert search(home).stdout == f"{home}/.pyenv/versions/{SUPPORTED[0]}.10/bin/python3\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo pyenv: command not found >&2; exit 127", "it does not run"),
        ("echo it has no module ensurepip; exit 1", "it has no module ensurepip"),
    ],
)
def test_one_that_cannot_make_an_environment_is_passed_over_and_the_next_taken(
    home: Path, body: str, reason: str
) -> None:
    broken = python(home / f"bin/python{SUPPORTED[0]}", SUPPORTED[0], body)
    older = python(home / f"bin/python{SUPPORTED[1]}", SUPPORTED[1])
    found = search(home)
    assert found.stdout == f"{older}\n"
    assert found.stderr == f"-- passing over {broken}: {reason}\n"


def test_a_shim_that_does_not_run_is_no_word_worth_where_the_real_one_is_found(home: Path) -> None:
    python(home / f"bin/python{SUPPORTED[0]}", SUPPORTED[0], "exit 127")
    real = python(home / f".pyenv/versions/{SUPPORTED[0]}.1/bin/python3", SUPPORTED[0])
    found = search(home)
    assert (found.stdout, found.stderr) == (f"{real}\n", "")


def test_python_names_the_one_to_take_and_is_refused_if_it_is_none(home: Path) -> None:
    python(home / f"bin/python{SUPPORTED[0]}", SUPPORTED[0])
    older = python(home / "own/python", SUPPORTED[-1])
    assert search(home, PYTHON=str(older)).stdout == f"{older}\n"
    refused = search(home, PYTHON="python2")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("run: PYTHON=python2 is no supported Python (3.")


def test_a_real_python_passes_the_check(home: Path) -> None:
    """The one that runs this: those of the other tests only say that they are."""
    real = home / f"bin/python{OURS}"
    real.symlink_to(Path(sys.base_prefix) / "bin/python3")
    assert search(home).stdout == f"{real}\n"


# Makes an environment at once, which holds itself and no packages. A real one is made in test_native_stop.py.
QUICK = """#!/bin/sh
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/dotenv" ;;
    --version) echo Python 3.13.0 ;;
esac
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """./run with a quick Python and requirements of nothing."""
    shutil.copy(ROOT / "run", tmp_path)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    (tmp_path / "requirements").mkdir()
    for name in "native", "dev":
        (tmp_path / f"requirements/{name}.txt").write_text(f"# {name}\n")
    (tmp_path / "python").write_text(QUICK)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def install(bundle: Path, *arguments: str) -> str:
    """Runs `./run install` and returns what it says; raises CalledProcessError if it fails."""
    environment = {**os.environ, "PYTHON": f"{bundle}/python"}
    return subprocess.run(
        ["./run", "install", *arguments], cwd=bundle, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_larger_set_is_added_to_a_smaller_and_serves_for_it(bundle: Path) -> None:
    assert "requirements/native.txt" in install(bundle, "native")
    kept = bundle / ".venv/kept"
    kept.touch()
    assert install(bundle) == ""  # by default what it holds
    assert "requirements/dev.txt" in install(bundle, "dev")
    assert install(bundle, "native") == install(bundle) == ""
    assert kept.exists()


def test_an_environment_is_made_again_for_other_requirements_a_python_that_is_gone_or_when_told_to(
    bundle: Path,
) -> None:
    made = "-- making .venv"
    assert made in install(bundle, "dev")
    assert install(bundle, "dev") == ""
    assert made in install(bundle, "--again", "dev")
    (bundle / "requirements/dev.txt").write_text("# other ones\n")
    kept = bundle / ".venv/kept"
    kept.touch()
    assert made in install(bundle, "dev")
    assert not kept.exists()
    (bundle / ".venv/bin/dotenv").unlink()
    (bundle / ".venv/bin/dotenv").symlink_to("/nowhere")
    assert made in install(bundle, "dev")


def test_a_set_that_is_none_is_told(bundle: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        install(bundle, "everything")
    assert error.value.stderr == "run: There is no set of requirements everything: there are native and dev.\n"


def test_an_environment_from_which_something_runs_is_not_removed(bundle: Path) -> None:
    install(bundle, "native")
    with (bundle / ".run/running").open("w") as lock:
        subprocess.run(["flock", "--shared", str(lock.fileno())], pass_fds=[lock.fileno()], check=True)
        with pytest.raises(subprocess.CalledProcessError) as error:
            install(bundle, "--again")
    assert "stop it first" in error.value.stderr
    assert (bundle / ".venv/bin/python").exists()
