"""The recipes for other tools say of ports, paths, commands and time-outs what the compose file and the service say."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.platform.settings import ROOT

RECIPES = ROOT / "deploy/recipes"
PORT = 8000


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def production() -> dict[str, Any]:
    """The services of the compose file."""
    services: dict[str, Any] = read(ROOT / "docker-compose.prod.yml")["services"]
    return services


@pytest.fixture(scope="module")
def kamal() -> Any:
    return read(RECIPES / "kamal/deploy.yml")


@pytest.fixture(scope="module")
def dokku() -> Any:
    return json.loads((RECIPES / "dokku/app.json").read_text())


@pytest.fixture(scope="module")
def coolify() -> Any:
    return read(RECIPES / "coolify/docker-compose.yml")["services"]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def base_image(name: str) -> str:
    (image,) = re.findall(rf"^FROM (\S+) AS {name}-by-tag$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    return str(image)


def unknown(found: Any, known: Any, at: str = "") -> list[str]:
    """Returns the paths of the keys that are not known (see recipe_keys.yml)."""
    if isinstance(found, list):
        return [path for each in found for path in unknown(each, known, at)]
    if known is None or not isinstance(found, dict):
        return []
    paths: list[str] = []
    for key, value in found.items():
        is_known = key in known or "*" in known
        paths += unknown(value, known.get(key, known.get("*")), f"{at}/{key}") if is_known else [f"{at}/{key}"]
    return paths


def settings(names: Any) -> None:
    """Asserts that each name is a setting that `.quartenv.example` explains."""
    documented = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".quartenv.example").read_text(), re.MULTILINE)
    assert set(names) <= set(documented)


def commands(*texts: str) -> None:
    """Asserts that each program of deploy/ that is named in the texts is there, and can be run."""
    for program in re.findall(r"deploy/\S+", " ".join(texts)):
        assert os.access(ROOT / program, os.X_OK), program


def test_the_port_and_the_path_of_readiness_are_the_services(kamal: Any, dokku: Any, coolify: Any) -> None:
    (check,) = dokku["healthchecks"]["web"]
    assert {check["path"], kamal["proxy"]["healthcheck"]["path"]} == {"/readyz"}
    assert '@app.get("/readyz")' in (ROOT / "service/platform/health.py").read_text()
    assert f"\nEXPOSE {PORT}\n" in (ROOT / "deploy/Dockerfile").read_text()
    assert f"--bind 0.0.0.0:{PORT} " in (ROOT / "deploy/container/start").read_text()
    assert check["port"] == kamal["proxy"]["app_port"] == PORT
    assert coolify["nginx"]["environment"]["UPSTREAM"] == f"web:{PORT}"


def test_kamal_gives_a_container_the_time_that_compose_gives(kamal: Any, production: dict[str, Any]) -> None:
    check, web = production["web"]["healthcheck"], production["web"]
    assert kamal["deploy_timeout"] == seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])
    assert kamal["stop_timeout"] == seconds(web["stop_grace_period"])
    assert kamal["drain_timeout"] == tomllib.loads((ROOT / "hypercorn.toml").read_text())["graceful_timeout"]
    assert f"proxy_read_timeout {kamal['proxy']['response_timeout']}s;" in (ROOT / "nginx.conf").read_text()
    assert f"MAX_BODY_SIZE:-{kamal['proxy']['buffering']['max_request_body']}}}" in web["environment"]["MAX_BODY_SIZE"]
    assert kamal["servers"]["web"]["options"] == {"init": True, "memory": web["mem_limit"], "pids-limit": 500}


def test_kamal_names_settings_secrets_files_and_programs_that_there_are(kamal: Any) -> None:
    mysql, env = kamal["accessories"]["mysql"], kamal["env"]
    settings([*env["clear"], *env["secret"]])
    needed = {name.partition(":")[2] or name for name in [*env["secret"], *mysql["env"]["secret"]]}
    secrets = re.findall(r"^([A-Z_]+)=", (RECIPES / "kamal/secrets").read_text(), re.MULTILINE)
    assert set(secrets) == needed | set(kamal["registry"]["password"])
    assert env["clear"]["DB_HOST"] == f"{kamal['service']}-mysql"
    assert env["clear"]["DATABASE_NAME"] == mysql["env"]["clear"]["MYSQL_DATABASE"]
    assert env["clear"]["DB_USERNAME"] == mysql["env"]["clear"]["MYSQL_USER"]
    assert mysql["image"] == base_image("mysql")
    assert all((ROOT / file.partition(":")[0]).is_file() for file in mysql["files"])
    commands(kamal["servers"]["web"]["cmd"].replace('"', ""))
    assert (ROOT / kamal["builder"]["dockerfile"]).is_file()


def test_dokku_and_kamal_know_each_key(dokku: Any, kamal: Any) -> None:
    known = read(ROOT / "tests/deploy/recipe_keys.yml")
    assert unknown({"dokku": dokku, "kamal": kamal}, known) == []


def test_dokku_names_settings_and_programs_that_there_are(dokku: Any, production: dict[str, Any]) -> None:
    settings(dokku["env"])
    procfile = dict(line.split(": ", 1) for line in (RECIPES / "dokku/Procfile").read_text().splitlines())
    migrate = production["migrate"]
    assert procfile == {
        "release": " ".join([*migrate["entrypoint"], *migrate["command"]]),
        "web": "deploy/container/start",
    }
    commands(*procfile.values())
    said = (ROOT / "docs/recipes.md").read_text()
    assert f"stop-timeout-seconds {seconds(production['web']['stop_grace_period'])}\n" in said
    assert f"http:80:{PORT}\n" in said
    for named in re.findall(r"deploy/recipes/[\w./-]*\w", said):
        assert (ROOT / named).exists(), named


def test_coolify_gets_of_each_service_what_compose_has(coolify: Any, production: dict[str, Any]) -> None:
    same = {
        "migrate": ("entrypoint", "command", "depends_on", "restart"),
        "web": ("stop_grace_period", "mem_limit"),
        "nginx": ("entrypoint", "stop_grace_period"),
        "mysql": ("stop_grace_period",),
    }
    for name, keys in same.items():
        assert {key: coolify[name][key] for key in keys} == {key: production[name][key] for key in keys}
    for name in "web", "nginx", "mysql":
        own, there = coolify[name]["healthcheck"], production[name]["healthcheck"]
        assert own == {key: there[key] for key in own} | ({"test": own["test"]} if name == "mysql" else {})
    settings(coolify["migrate"]["environment"])
    for name in "LISTEN", "UPSTREAM", "RESOLVER":
        assert coolify["nginx"]["environment"][name] == production["nginx"]["environment"][name]


@pytest.mark.compose
def test_compose_takes_coolifys_file_without_what_coolify_alone_knows(tmp_path: Path) -> None:
    text = (RECIPES / "coolify/docker-compose.yml").read_text()
    file = tmp_path / "docker-compose.yml"
    file.write_text("".join(line for line in text.splitlines(keepends=True) if "exclude_from_hc: " not in line))
    made = dict.fromkeys(re.findall(r"\$\{(SERVICE_[A-Z0-9_]+)\}", text), "x" * 64)
    command = ["docker", "compose", f"--project-directory={ROOT}", f"--file={file}", "config", "--quiet"]
    ended = subprocess.run(command, env={**os.environ, **made}, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
