"""The candidates' virtual environments, under .run/candidates, and their servers."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.settings import ROOT
from tests.processes import free_port, stop, wait_until

HERE = Path(__file__).parent
FOLDER = ROOT / ".run/candidates"

COMMANDS = {
    "flask_patch": (
        *("hypercorn", "--config", "hypercorn.toml", "--worker-class", "asyncio", "--workers", "{workers}"),
        *("--bind", "127.0.0.1:{port}", "loadtests.candidates.flask_patch.app:app"),
    ),
    "fastapi": (
        *("uvicorn", "--workers", "{workers}", "--port", "{port}", "--backlog", "2048", "--log-level", "warning"),
        *("--no-access-log", "--no-server-header", "--no-date-header", "--no-proxy-headers"),
        "loadtests.candidates.fastapi.app:app",
    ),
}
"""How each is started, as a module of its own Python."""


class CandidateError(Exception):
    """A candidate cannot be installed; the text says why."""


def environment(name: str) -> Path:
    """Returns the Python of a candidate's virtual environment, which is made if it is not there as required.

    What it holds is noted last, so that a half-made one is made again. Raises CandidateError.
    """
    wanted, folder = HERE / name / "requirements.txt", FOLDER / name
    noted, python = folder / "requirements.txt", folder / "bin/python"
    if not noted.exists() or noted.read_bytes() != wanted.read_bytes():
        print(f"installing {name}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        install = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--require-hashes"]
        for command in [sys.executable, "-m", "venv", str(folder)], [*install, "-r", str(wanted)]:
            ended = subprocess.run(command, check=False, capture_output=True, text=True)
            if ended.returncode != 0:
                raise CandidateError(f"{name} could not be installed: {(ended.stderr or ended.stdout).strip()[-600:]}")
        shutil.copy(wanted, noted)
    return python


@contextmanager
def serving(
    name: str, database: Mapping[str, str], *, workers: int, log: Path, pool: int, slow: float = 0.0
) -> Iterator[str]:
    """Runs a candidate on a free port of 127.0.0.1 until the end of the block, which gets its address.

    `database`: the environment that names it. `pool`: connections of each worker. `slow`: seconds that each transaction
    takes longer.

    Raises CandidateError.
    """
    port = free_port()
    command = [str(environment(name)), "-m", *(part.format(port=port, workers=workers) for part in COMMANDS[name])]
    own = {"POOL_SIZE": str(pool), "SLOW_DATABASE": str(slow)}
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env={**database, **own}, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_ready(url), process=process, log=log)
        yield url
    finally:
        stop(process)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
