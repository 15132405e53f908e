import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.compose import copy_tree, docker, logged
from harness.processes import container_name, wait_until

pytestmark = pytest.mark.compose

CLUTTER = (
    ".quartenv",
    ".env",
    "service/.env",
    "service/__pycache__/x.pyc",
    ".git/config",
    ".run/secrets/key",
    "notes.txt",
)


def build(directory: Path, tag: str) -> None:
    docker("build", "--quiet", "--file", str(directory / "deploy/Dockerfile"), "--tag", tag, str(directory))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with clutter and secrets in it, cloned under a umask that lets nobody else read."""
    directory = copy_tree(tmp_path_factory.mktemp("image") / "tally")
    for name in CLUTTER:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("secret")
    for path in directory.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    return directory


@pytest.fixture(scope="module")
def image(tree: Path) -> Iterator[str]:
    tag = f"tally-test-image-{uuid.uuid4().hex[:8]}"
    build(tree, tag)
    yield tag
    docker("rmi", tag)


def run(image: str, *command: str) -> str:
    """Runs a command in the image as its own user and returns what it prints."""
    return docker("run", "--rm", "--network", "none", "--read-only", image, *command)


def test_the_image_holds_what_the_service_and_its_jobs_need_and_no_more(tree: Path, image: str) -> None:
    wanted = {
        "alembic.ini",
        "hypercorn.toml",
        "deploy/certificate.py",
        "deploy/exporter.py",
        "deploy/make_secrets.py",
        "deploy/database/users.sql",
    }
    wanted |= {"deploy/container/migrate", "deploy/container/start", "deploy/processors", "deploy/worker_size.sh"}
    for package in "service", "migrations", "deploy/backup":
        files = (tree / package).rglob("*")
        wanted |= {str(path.relative_to(tree)) for path in files if path.is_file()} - set(CLUTTER)
    assert set(run(image, "find", "/srv", "-type", "f", "-printf", "%P\n").split()) == wanted
    everywhere = "find / -xdev ( -name .quartenv -o -name .env -o -name .git -o -name tests -path /srv/* ) -print"
    assert docker("run", "--rm", "--user", "0", image, *everywhere.split()) == ""


def test_the_environment_holds_the_pinned_packages_and_no_tool_for_tests_or_installing(tree: Path, image: str) -> None:
    script = "import importlib.metadata as m; print(*{f'{d.name.lower()}=={d.version}' for d in m.distributions()})"
    installed = {package.replace("_", "-") for package in run(image, "/opt/venv/bin/python", "-c", script).split()}
    lines = (tree / "requirements/production.txt").read_text().splitlines()
    pinned = {line.split()[0].lower().replace("_", "-") for line in lines if "==" in line and not line.startswith(" ")}
    assert installed <= pinned
    assert not [package for package in pinned - installed if "win32" not in "".join(lines)]


def test_its_user_is_not_root_can_read_all_and_change_nothing(image: str) -> None:
    configuration = json.loads(docker("inspect", image))[0]["Config"]
    assert configuration["User"] == "10001:10001"
    assert not [entry for entry in configuration["Env"] if "PASSWORD" in entry or "SECRET" in entry]
    assert run(image, "find", "/srv", "/opt/venv", "!", "-readable") == ""
    assert run(image, "find", "/srv", "/opt/venv", "-writable", "!", "-type", "l") == ""
    assert run(image, "python", "-c", "import alembic, hypercorn, service, uvloop; print('fine')") == "fine\n"


@pytest.mark.parametrize(
    ("limit", "workers", "sentence"),
    [
        ("--memory=512m", "8", "8 do not fit into 512 MiB of memory: at 80 each and 60 for the rest, 5 do"),
        ("--memory=1g", "256", "256 do not fit into 1024 MiB of memory: at 80 each and 60 for the rest, 12 do"),
        ("--memory=128m", "1", "1 do not fit into 128 MiB of memory: at 80 each and 60 for the rest, 0 do"),
        ("--memory=128m", "auto", "1 do not fit into 128 MiB of memory: at 80 each and 60 for the rest, 0 do"),
        (
            "--pids-limit=100",
            "19",
            "19 do not fit into 100 processes and threads: at 5 each and 10 for the rest, 18 do",
        ),
        ("--pids-limit=14", "auto", "1 do not fit into 14 processes and threads: at 5 each and 10 for the rest, 0 do"),
    ],
)
def test_more_workers_than_fit_are_refused(image: str, limit: str, workers: str, sentence: str) -> None:
    code, printed = refused(image, limit, f"--env=WORKERS={workers}")
    assert code == 78
    assert printed.startswith(f"WORKERS={sentence}. Lower WORKERS, or raise ")


@pytest.mark.parametrize(("name", "value"), [("WORKERS", "two"), ("WORKERS", "-1"), ("WEB_REPLICAS", "0")])
def test_a_malformed_number_is_refused(image: str, name: str, value: str) -> None:
    assert refused(image, f"--env={name}={value}") == (78, f"{name} is malformed: see .quartenv.example.\n")


def test_a_number_out_of_range_is_refused_by_the_service(image: str) -> None:
    code, printed = refused(image, *SETTINGS, "--env=WORKERS=0")
    assert code != 0
    assert 'Environment variable "WORKERS" invalid' in printed


def refused(image: str, *options: str) -> tuple[int, str]:
    """Returns the exit code of a container that ends at once, and what it printed."""
    command = ["docker", "run", "--rm", "--network=none", *options, image]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stderr


SETTINGS = [f"--env=SECRET_KEY={'0' * 16}", "--env=DB_HOST=127.0.0.1", "--env=DB_USERNAME=x", "--env=DB_PASSWORD=x"]


@pytest.fixture(scope="module")
def processors(image: str) -> int:
    """How many a container without limits may use."""
    number = int(run(image, "nproc"))
    if number == 1:
        pytest.skip("needs two processors, of which a limit leaves one")
    return number


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([], "{all} of {all} processors"),
        (["--env=WEB_REPLICAS=2"], "{half} of {all} processors for 2 replicas"),
        (["--env=WEB_REPLICAS=3"], "{third} of {all} processors for 3 replicas"),
        (["--cpuset-cpus=0", "--env=WEB_REPLICAS=2"], "1 of 1 processors for 2 replicas"),
        (["--cpus=0.5"], "1 of {all} processors by its CPU quota"),
        (["--cpus=1.5", "--env=WEB_REPLICAS=1000"], "1 of {all} processors for 1000 replicas"),
        (["--memory=200m"], "1, for which 200 MiB of memory have room"),
        (["--pids-limit=19"], "1, for which 19 processes and threads have room"),
    ],
)
def test_auto_is_as_many_workers_as_there_are_processors_for_a_replica_and_as_fit(
    options: list[str], chosen: str, image: str, processors: int
) -> None:
    chosen = chosen.format(all=processors, half=-(-processors // 2), third=-(-processors // 3))
    number, events = workers_of(image, *options)
    assert number == int(re.split("[ ,]", chosen)[0])
    assert events[0] == f"WORKERS=auto: {chosen}"


def test_a_number_of_workers_stays_that_number(image: str) -> None:
    number, events = workers_of(image, "--cpus=0.5", "--env=WORKERS=3")
    assert number == 3
    assert not [event for event in events if "WORKERS" in event]


def test_a_disk_that_is_nearly_full_is_logged_once_and_when_it_has_room_again(image: str) -> None:
    name = container_name()
    options = "--network=none", "--tmpfs=/srv/.run:size=1m,mode=1777", "--env=WORKERS=1", *SETTINGS
    docker("run", "--detach", "--name", name, *options, image)
    try:
        wait_until(lambda: "not ready: " in logged(name))
        docker("exec", name, "sh", "-c", "head -c 1000000 /dev/zero >/srv/.run/fill")
        wait_until(lambda: "the disk is 9" in logged(name))
        docker("exec", name, "rm", "/srv/.run/fill")
        wait_until(lambda: "MiB are free again" in logged(name))
        assert logged(name).count("The disk fills") == 1
    finally:
        docker("rm", "--force", name)


def workers_of(image: str, *options: str) -> tuple[int, list[str]]:
    """Starts a replica, without a database; returns how many workers it has, and the events that it logged.

    Each worker has been told of how many it is one.
    """
    name = container_name()
    docker("run", "--detach", "--name", name, "--network=none", *SETTINGS, *options, image)

    def events() -> list[str]:
        logs = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True)
        return [json.loads(line)["event"] for line in logs.stderr.splitlines()]

    def serving() -> int:
        return sum("Running on http://0.0.0.0" in event for event in events())

    try:
        wait_until(lambda: serving() and serving() == docker("top", name).count("--multiprocessing-fork"))
        (told,) = re.findall(
            "^WORKERS=(.*)$", docker("exec", name, "sh", "-c", "tr '\\0' '\\n' </proc/1/environ"), re.M
        )
        assert int(told) == serving()
        return serving(), events()
    finally:
        docker("rm", "--force", name)


def test_nginx_has_a_worker_for_each_processor_of_the_containers_share(tree: Path) -> None:
    tag = f"tally-test-nginx-{uuid.uuid4().hex[:8]}"
    docker("build", "--quiet", "--file", str(tree / "deploy/Dockerfile"), "--target", "nginx", "--tag", tag, str(tree))
    try:
        script = "/bundle/deploy/nginx/render /tmp/nginx; cat /tmp/nginx/rendered/main.conf"
        settings = ("--env", "LISTEN=0.0.0.0:80", "--env", "UPSTREAM=127.0.0.1:1")
        run = ("run", "--rm", "--user", "101", *settings, "--cpus", "0.5", "--entrypoint", "sh", tag, "-c", script)
        assert docker(*run) == "worker_processes 1;\n"
    finally:
        docker("rmi", tag)


def test_a_change_of_the_code_rebuilds_one_layer(tree: Path, image: str) -> None:
    (tree / "service/__init__.py").write_text((tree / "service/__init__.py").read_text() + "\n# changed\n")
    tag = f"{image}-changed"
    build(tree, tag)
    try:
        before, after = (json.loads(docker("inspect", one))[0]["RootFS"]["Layers"] for one in (image, tag))
        assert before[:-1] == after[:-1]
        assert before[-1] != after[-1]
    finally:
        docker("rmi", tag)
