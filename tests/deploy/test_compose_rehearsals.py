"""Deploys that take long: many in a row, one that stops half-way, and one whose images come from a registry."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest

from harness.compose import Stack, docker
from harness.processes import free_port, is_ok, stop, wait_until
from service.platform.settings import ROOT
from tests.deploy.deploys import FACTORY, change, commit, run, stack_of_a_repository, tags, under_load

pytestmark = [pytest.mark.compose, pytest.mark.rehearsal]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_of_a_repository(tmp_path_factory.mktemp("deploys") / "tally") as stack:
        yield stack


def test_ten_deploys_in_a_row_fail_no_request(deployed: Stack) -> None:
    for number in range(10):
        tag = change(deployed, FACTORY, f"# {number}\n")
        code, written = under_load(deployed, lambda: run(deployed, "deploy"), pause=0)
        assert (code, tags(deployed)) == (0, [tag] * 2), written


def test_half_a_deploy_goes_on_or_back(deployed: Stack) -> None:
    for task in "deploy", "rollback":
        before = tags(deployed)
        tag = change(deployed, FACTORY, f"# half, then {task}\n")
        under_load(deployed, lambda: interrupt_when_one_leaves(deployed))
        assert sorted(tags(deployed)) == sorted([before[0], tag])
        code, written = under_load(deployed, partial(run, deployed, task))
        assert (code, tags(deployed)) == (0, [tag] * 2 if task == "deploy" else before), written


def test_a_deploy_keeps_tls_that_was_turned_on_after_the_start(deployed: Stack) -> None:
    assert run(deployed, "certificate", "--self-signed")[0] == 0
    secured = deployed.over("deploy/compose.tls.yml", HTTPS_PORT=str(free_port()))
    try:
        secured.up("--force-recreate", "--no-deps", "nginx")
        tag = change(secured, FACTORY, "# secured\n")
        code, written = run(secured, "deploy")
        assert (code, tags(secured)) == (0, [tag] * 2), written
        answer = httpx.get(f"https://127.0.0.1:{secured.environment['HTTPS_PORT']}/livez", verify=False)
        assert answer.text == "alive\n"
    finally:
        deployed.up()


def test_after_a_rollback_over_a_revision_the_stack_starts_again(deployed: Stack) -> None:
    versions = deployed.directory / "migrations/versions"
    (head,) = sorted(path.name[:4] for path in versions.glob("[0-9]*.py"))[-1:]
    revision = f'revision = "9000"\ndown_revision = "{head}"\n\n\ndef upgrade() -> None:\n    pass\n'
    (versions / "9000_next.py").write_text(revision)
    before = tags(deployed)
    commit(deployed)
    for task in "deploy", "rollback":
        code, written = run(deployed, task)
        assert code == 0, written
    deployed.compose("down")
    without_tag = {name: value for name, value in deployed.environment.items() if name != "IMAGE_TAG"}
    replace(deployed, environment=without_tag).up()
    assert tags(deployed) == before


def interrupt_when_one_leaves(stack: Stack) -> None:
    """Starts a deploy, and sends it Ctrl-C when an old replica has been told to leave, which it does to its end."""
    old = stack.containers("web")
    process = stack.begin_task("deploy")
    wait_until(lambda: not all(map(stack.is_ready, old)), limit=120)
    os.killpg(process.pid, signal.SIGINT)
    written, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "1 of 2 replicas replaced" in written


def test_images_of_a_release_come_from_a_registry(tmp_path: Path) -> None:
    with registry(tmp_path) as address, stack_of_a_repository(tmp_path / "tally", f"{address}/") as stack:
        tag = change(stack, FACTORY, "# of the registry\n")
        with base_images(address) as bases:
            code, written = run(stack.over(**bases), "release", "--here", f"v{tag}")
        pinned = re.findall(r"^-- ([A-Z]+_IMAGE)=\S+@sha256:[0-9a-f]{64}$", written, re.MULTILINE)
        assert (code, set(pinned)) == (0, set(bases)), written
        for image in docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
            if image.startswith(stack.environment["IMAGE_NAME"]) and image.endswith(f":{tag}"):
                docker("rmi", image)
        assert run(stack, "deploy", "--pull", "unknown")[0] == 1
        code, written = under_load(stack, lambda: run(stack, "deploy", "--pull", tag))
        assert (code, tags(stack)) == (0, [tag] * 2), written


@contextmanager
def base_images(address: str) -> Iterator[dict[str, str]]:
    """Pushes what the Dockerfile's tags are here; yields the variables that name the images in the registry."""
    found = re.findall(r"^FROM (\S+) AS (\w+)-by-tag$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    pushed = {f"{name.upper()}_IMAGE": f"{address}/{image}" for image, name in found}
    try:
        for image, _ in found:
            docker("tag", image, f"{address}/{image}")
            docker("push", "--quiet", f"{address}/{image}")
        yield pushed
    finally:
        docker("rmi", *pushed.values())


@contextmanager
def registry(directory: Path) -> Iterator[str]:
    """Runs Debian's registry, with its data in the directory; yields its address."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": str(directory / "images")}}}
    file, log = directory / "registry.json", directory / "registry.log"
    file.write_text(json.dumps({**settings, "http": {"addr": address}}))  # JSON is YAML
    with log.open("w") as output:
        process = subprocess.Popen(["docker-registry", "serve", file], stdout=output, stderr=output)
    try:
        wait_until(lambda: is_ok(port, "/v2/"), process=process, log=log)
        yield address
    finally:
        stop(process)
