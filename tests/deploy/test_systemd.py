"""The units of deploy/systemd as systemd reads them, and `./run install systemd` where it changes nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from service.platform.settings import ROOT

pytestmark = pytest.mark.systemd

UNITS = ROOT / "deploy/systemd"
OPT = "opt/tally"

EXPOSURE = 20
"""Tenths: `systemd-analyze security` says 1.5 of all but nginx (1.7), and 9.6 of a service that is not hardened."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a system with the units in place, and a release."""
    root = tmp_path_factory.mktemp("root")
    own = root / "etc/systemd/system"
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    (own / "tally-.service.d").mkdir(parents=True)
    shutil.copy(UNITS / "service.conf", own / "tally-.service.d")
    for unit in UNITS.glob("tally*.*"):
        shutil.copy(unit, own)
    for release in "current", "releases/1":
        shutil.copytree(ROOT / "deploy", root / OPT / release / "deploy")
    (root / "usr/sbin").mkdir()
    shutil.copy("/bin/true", root / "usr/sbin/nginx")
    return root


def units(*kinds: str) -> list[str]:
    """Returns the names of the units of these kinds; of a template, that of an instance."""
    names = [unit.name for kind in kinds for unit in UNITS.glob(f"tally*.{kind}")]
    return sorted(name.replace("@.", "@1.") for name in names)


def analyze(root: Path, *arguments: str) -> tuple[int, str]:
    ended = subprocess.run(["systemd-analyze", f"--root={root}", *arguments], capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def test_systemd_takes_every_unit(root: Path) -> None:
    assert len(units("service", "timer", "target")) == len(list(UNITS.glob("tally*.*"))) == 9
    assert analyze(root, "--man=no", "verify", *units("service", "timer", "target")) == (0, "")


@pytest.mark.parametrize("unit", units("service"))
def test_a_service_may_do_little_more_than_its_work(unit: str, root: Path) -> None:
    code, said = analyze(root, "security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    assert code == 0, said


def test_a_stop_leaves_time_to_answer_what_has_begun() -> None:
    web = (UNITS / "tally-web@.service").read_text()
    nginx = (UNITS / "tally-nginx.service").read_text()
    supervisor = (ROOT / "deploy/native/supervisord.conf").read_text()
    assert "TimeoutStopSec=55\n" in web
    assert "stopwaitsecs = 55\n" in supervisor
    assert "TimeoutStopSec=35\n" in nginx
    assert "worker_shutdown_timeout 30s;" in (ROOT / "nginx.conf").read_text()


def test_a_dry_run_says_what_would_be_done_and_does_nothing() -> None:
    ended = subprocess.run(["./run", "install", "systemd", "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = ended.stdout.splitlines()
    assert "-- the user tally" in said
    assert "-- /var/lib/tally, which belongs to tally, mode 700" in said
    assert {f"-- /etc/systemd/system/{unit.name}" for unit in UNITS.glob("tally*.*")} < set(said)
    assert not Path("/etc/systemd/system/tally.target").exists()


@pytest.mark.parametrize("arguments", [["--dry"], ["--remove", "--now"]])
def test_what_it_does_not_know_is_refused(arguments: list[str]) -> None:
    ended = subprocess.run(["./run", "install", "systemd", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "run: usage: ./run install systemd [--dry-run | --remove]\n"
