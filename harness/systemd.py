"""A Debian with systemd in a container, in which `./run install systemd` puts a copy of the tree in place."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.compose import copy_tree, docker
from harness.processes import container_name, free_port, wait_until

IMAGE = """
FROM {base}
RUN apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
    systemd systemd-sysv dbus nginx mariadb-server-core mariadb-client-core mariadb-backup logrotate python3-venv git \
    curl openssl ca-certificates
RUN mkdir -p /var/log/journal
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
LABEL base="{base}"
"""


@dataclass(frozen=True)
class Machine:
    """A booted machine. `port` of 127.0.0.1 leads to its port 8080."""

    container: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, *command: str, folder: str = "/srv/tally") -> tuple[int, str]:
        """Runs a command as root; returns its exit code and what it wrote."""
        ended = subprocess.run(
            ["docker", "exec", "--workdir", folder, self.container, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
        )
        return ended.returncode, ended.stdout

    def said(self, *command: str, folder: str = "/srv/tally") -> str:
        """Returns what the command wrote, which must end well."""
        code, said = self.run(*command, folder=folder)
        assert code == 0, said
        return said.strip()

    def copy(self, directory: Path, name: str) -> None:
        """Copies a folder to /srv/NAME, where root's own it is, and makes it a Git repository."""
        self.said("mkdir", "--parents", "/srv", folder="/")
        docker("cp", "--quiet", str(directory), f"{self.container}:/srv/{name}")
        folder = f"/srv/{name}"
        self.said("chown", "--recursive", "root:root", folder, folder=folder)
        for arguments in ("init", "--quiet"), ("config", "user.name", "x"), ("config", "user.email", "x@example.org"):
            self.said("git", *arguments, folder=folder)
        self.commit(folder)

    def commit(self, folder: str = "/srv/tally") -> str:
        """Commits what is in the folder; returns the version."""
        self.said("git", "add", "--all", folder=folder)
        self.said("git", "commit", "--quiet", "--allow-empty", "--message", "x", folder=folder)
        return self.said("git", "rev-parse", "--short=12", "HEAD", folder=folder)

    def boot(self) -> None:
        """Returns when systemd has started what it starts, whether or not all of it could be in a container."""
        wait_until(lambda: self.run("systemctl", "is-system-running", folder="/")[1].strip() in {"running", "degraded"})


@contextmanager
def debian(release: str, root: Path) -> Iterator[str]:
    """An image of that Debian, made by debootstrap in `root`, with this machine's certificates. Needs root."""
    packages = "ca-certificates,python3"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", release, root], check=True)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs")
    name = container_name()
    with subprocess.Popen(["tar", "--create", "--directory", root, "."], stdout=subprocess.PIPE) as packed:
        subprocess.run(["docker", "import", "-", name], stdin=packed.stdout, check=True, capture_output=True)
    try:
        assert packed.returncode == 0
        yield name
    finally:
        made_of_it = docker("images", "--quiet", "--filter", f"label=base={name}").split()
        docker("image", "rm", "--force", *made_of_it, name)


@contextmanager
def machine(directory: Path, base: str = "python:3.13-slim") -> Iterator[Machine]:
    """A machine of that image, with a copy of the tree in /srv/tally, where nothing is installed yet."""
    name, port = container_name(), free_port()
    image = IMAGE.format(base=base)
    built = subprocess.run(
        ["docker", "build", "--quiet", "-"], input=image, text=True, capture_output=True, timeout=500
    )
    assert built.returncode == 0, built.stderr
    options = ("--privileged", "--cgroupns=private", "--tmpfs=/run", "--tmpfs=/tmp", f"--publish=127.0.0.1:{port}:8080")
    docker("run", "--detach", "--name", name, *options, built.stdout.strip())
    try:
        booted = Machine(name, port)
        booted.boot()
        booted.copy(copy_tree(directory / "tally"), "tally")
        yield booted
    finally:
        docker("rm", "--force", "--volumes", name)
