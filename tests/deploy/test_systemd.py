"""The units of deploy/systemd as systemd reads them, and `./run install systemd` where it changes nothing."""

import os
import shlex
import shutil
import string
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from harness.compose import copy_tree
from service.platform import lifecycle
from service.platform.jobs import DRAIN
from service.platform.settings import ROOT

pytestmark = pytest.mark.systemd

UNITS = ROOT / "deploy/systemd"
OPT = "opt/tally"

EXPOSURE = 20
"""Tenths: `systemd-analyze security` says 1.5 of all but nginx (1.7), and 9.6 of a service that is not hardened."""

SETTINGS = {"DB_PORT": "none", "WORKERS": "1", "QUART_APP": "none:app"}
LAST_WORDS = {
    "tally-backup-logs.service": "The database does not run",
    "tally-backup.service": "The database does not run",
    "tally-exporter.service": "HTTP_ADDRESS: parameter not set",
    "tally-mariadb.service": "mariadbd: Error while setting value 'none' to 'port'",
    "tally-migrate@.service": 'Environment variable "DB_USERNAME" not set',
    "tally-nginx.service": ".run/nginx/nginx.conf",
    "tally-web@.service": "Cannot load application from 'none:app'",
}
"""Of what each service runs, where it is told SETTINGS and there is no configuration of nginx."""


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
    for program in "sbin/nginx", "sbin/logrotate", "bin/flock":
        (root / "usr" / program).parent.mkdir(exist_ok=True)
        shutil.copy("/bin/true", root / "usr" / program)
    return root


def units(*kinds: str) -> list[str]:
    """Returns the names of the units of these kinds; of a template, that of an instance."""
    names = [unit.name for kind in kinds for unit in UNITS.glob(f"tally*.{kind}")]
    return sorted(name.replace("@.", "@1.") for name in names)


def analyze(root: Path, *arguments: str) -> tuple[int, str]:
    ended = subprocess.run(["systemd-analyze", f"--root={root}", *arguments], capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def test_systemd_takes_every_unit(root: Path) -> None:
    assert len(units("service", "timer", "target")) == len(list(UNITS.glob("tally*.*"))) == 12
    assert analyze(root, "--man=no", "verify", *units("service", "timer", "target")) == (0, "")


@pytest.mark.parametrize("unit", units("service"))
def test_a_service_may_do_little_more_than_its_work(unit: str, root: Path) -> None:
    code, said = analyze(root, "security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    assert code == 0, said


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What natively is /opt/tally, with a release."""
    base = tmp_path_factory.mktemp("opt")
    state = base / ".run"
    (state / "nginx").mkdir(parents=True)
    (base / "run/1").mkdir(parents=True)
    release = copy_tree(base / "releases/1")
    (release / ".venv").symlink_to(ROOT / ".venv")
    (release / ".run").symlink_to(state)
    (base / "current").symlink_to(release)
    return base


def in_base(unit: str, base: Path) -> list[tuple[str, str]]:
    """Returns the settings of a unit's services, as of a release `1` in `base`."""
    text = (UNITS / unit).read_text().replace("\\\n", "").replace("%i", "1")
    text = text.replace("/run/tally", f"{base}/run").replace("/opt/tally", str(base))
    return [(name, value) for name, found, value in (line.partition("=") for line in text.splitlines()) if found]


@pytest.mark.parametrize("unit", LAST_WORDS)
def test_a_service_finds_what_it_runs_from_its_folder(unit: str, base: Path) -> None:
    settings = in_base(unit, base)
    said = ""
    for name, command in settings:
        if name in {"ExecStartPre", "ExecStart"}:
            ended = subprocess.run(
                shlex.split(string.Template(command).substitute(SETTINGS)),
                cwd=dict(settings)["WorkingDirectory"],
                env={"PATH": os.environ["PATH"] + ":/usr/sbin"},
                capture_output=True,
                text=True,
                timeout=60,
            )
            said = ended.stdout + ended.stderr
    assert LAST_WORDS[unit] in said


def test_a_stop_leaves_time_to_answer_what_has_begun() -> None:
    hypercorn = tomllib.loads((ROOT / "hypercorn.toml").read_text())
    supervisor = ConfigParser()
    supervisor.read(ROOT / "deploy/native/supervisord.conf")
    assert "worker_shutdown_timeout 30s;" in (ROOT / "nginx.conf").read_text()
    longest_delay, background_tasks = 60, 5 + lifecycle.LONGEST_QUEUE
    web = longest_delay + hypercorn["graceful_timeout"] + background_tasks + DRAIN
    assert stop_seconds("web@") > web
    assert supervisor.getint("program:hypercorn", "stopwaitsecs") > web
    assert stop_seconds("nginx") > 30
    assert supervisor.getint("program:nginx", "stopwaitsecs") > 30


def stop_seconds(name: str) -> int:
    return int(dict(in_base(f"tally-{name}.service", Path()))["TimeoutStopSec"])


@pytest.mark.skipif(Path("/etc/systemd/system/tally.target").exists(), reason="is installed here")
def test_a_dry_run_says_what_would_be_done_and_does_nothing() -> None:
    ended = subprocess.run(["./run", "install", "systemd", "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = ended.stdout.splitlines()
    assert "-- the user tally" in said
    assert "-- /var/lib/tally, which belongs to tally, mode 700" in said
    assert {f"-- /etc/systemd/system/{unit.name}" for unit in UNITS.glob("tally*.*")} < set(said)
    assert not Path("/etc/systemd/system/tally.target").exists()


def test_a_name_that_a_user_of_the_system_has_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copy(ROOT / "run", tmp_path)
    common = tmp_path / "deploy/systemd/common.sh"
    common.write_text(common.read_text().replace("NAME=tally", "NAME=daemon"))
    ended = subprocess.run(["./run", "install", "systemd", "--dry-run"], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("run: There is a user daemon (of /usr/sbin) who is not this application's")


@pytest.mark.parametrize("arguments", [["--dry"], ["--remove", "--now"]])
def test_what_it_does_not_know_is_refused(arguments: list[str]) -> None:
    ended = subprocess.run(["./run", "install", "systemd", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "run: usage: ./run install systemd [--dry-run | --remove]\n"
