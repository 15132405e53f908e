"""The README's first command in a bare root of each supported Debian, made by debootstrap."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from harness.compose import copy_tree
from harness.native import ANSWERS
from harness.processes import free_port, wait_until

pytestmark = [pytest.mark.native, pytest.mark.rehearsal]

START = """
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
    exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HTTP_PORT="$2" WEB_PORT="$3" "${@:4}" \
        bash -c 'cd /tally && exec ./run up'
"""
"""Neither HOME nor a locale nor a terminal is there."""


@pytest.mark.parametrize("release", ["trixie", "bookworm"])
def test_one_command_starts_it_in_a_bare_debian(release: str, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip("needs root and debootstrap")
    root = tmp_path / release
    packages = "ca-certificates,python3"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", release, root], check=True)
    copy_tree(root / "tally")
    for name in "/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt":
        shutil.copy(name, root / name[1:])
    port, log = free_port(), tmp_path / "log"
    pip = [f"{name}={value}" for name, value in os.environ.items() if name in {"PIP_CERT", "PIP_INDEX_URL"}]
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", START, "-", str(root)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, str(port), str(free_port()), *pip], stdout=file, stderr=file, process_group=0
        )
    try:
        wait_until(lambda: ANSWERS in log.read_text(), limit=300, process=process, log=log)
        assert httpx.get(f"http://127.0.0.1:{port}/livez").text == "alive\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
