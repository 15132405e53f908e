"""The documents name tasks, options and anchors that there are, and a test runs each command of a remedy."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from alembic.config import CommandLine

from harness.databases import Database
from service.platform.settings import ROOT
from tests.conftest import MakeApp

DOCUMENTS = sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
RUNBOOK = Path("docs/runbook.md")
REMEDIES = (ROOT / RUNBOOK).read_text().partition("\n## Day to day")[0]

OTHERS_OPTIONS = {"rehearse", "test", "load", "bench"}
"""Tasks that hand their arguments to a tool with options of its own."""


def code(text: str) -> Iterator[str]:
    """Yields what the text has as code, line by line."""
    for block, inline in re.findall(r"^ *```\w*\n(.*?)^ *```|`([^`]+)`", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines() or [inline]:
            yield " ".join(line.partition(" #")[0].split())


def tasks(text: str) -> Iterator[list[str]]:
    """Yields each call of ./run, without the program."""
    for line in code(text):
        if found := re.search(r"(?:^|[ /])run ([a-z-]+.*)", line) if "/run " in line else None:
            yield found[1].replace("[", "").replace("]", "").split()


def source(task: str) -> str:
    """Returns the text of the task and of the scripts that it calls."""
    run = (ROOT / "run").read_text()
    begin = run.index(f"\n{task}() {{ #")
    text = run[begin : run.index("\n}", begin)]
    if "of_what_is_here" in text:
        text += "deploy/container/backup deploy/native/backup_options.sh"
    for script in re.findall(r"deploy/[\w/.]*\w", text):
        if (ROOT / script).is_file():
            text += (ROOT / script).read_text()
    return text


def slugs(document: Path) -> set[str]:
    """Returns the anchors of the document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / document).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_quart(group: click.Command, arguments: list[str]) -> None:
    """Fails unless these are a command of the application's and options that it has."""
    while isinstance(group, click.Group) and arguments and not arguments[0].startswith("-"):
        group, arguments = group.commands[arguments[0]], arguments[1:]
    known = {option for parameter in group.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("-")} <= known | {"--help"}, (group.name, arguments)


@pytest.mark.any_database
def test_each_task_that_a_document_names_is_one_with_these_options(make_app: MakeApp) -> None:
    listed = subprocess.check_output([ROOT / "run"], text=True)
    known = set(re.findall(r"^\./run ([a-z-]+)", listed, re.MULTILINE))
    commands = make_app().cli
    found = [call for document in DOCUMENTS for call in tasks((ROOT / document).read_text())]
    assert len(found) > 50
    for task, *arguments in found:
        assert task in known, f"./run {task}"
        if task == "quart":
            check_quart(commands, arguments)
        elif task == "migrate":
            CommandLine().parser.parse_args(arguments or ["upgrade", "head"])  # exits where it knows it not
        elif task not in OTHERS_OPTIONS:
            own = " ".join(arguments).partition("--acme")[0]  # certbot's follow
            for option in re.findall(r"(?:^| )(--[\w-]+)", own):
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", source(task)), f"./run {task} {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_each_anchor_that_a_document_links_to_is_a_heading(document: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", (ROOT / document).read_text()):
        target = (ROOT / document.parent / path).resolve().relative_to(ROOT) if path else document
        assert anchor in slugs(target), f"{target}#{anchor}"


def test_each_section_of_what_is_wrong_has_symptom_check_and_remedy_and_is_in_the_table() -> None:
    table, *sections = REMEDIES.split("\n## ")
    for section in sections:
        title = section.partition("\n")[0]
        parts = [section.find(f"**{part}.**") for part in ("Symptom", "Check", "Remedy")]
        assert -1 not in parts, title
        assert parts == sorted(parts), title
        assert f"[{title}](#" in table


COMPOSE_BACKUP = "tests/deploy/test_compose_backup.py"
BESIDE = f"{COMPOSE_BACKUP}::test_a_backup_is_restored_beside_the_stack_up_to_a_moment"
NATIVE = "tests/deploy/test_native.py"
SECRETS = "tests/deploy/test_compose_data.py::test_secrets_that_were_lost_beside_data_are_renewed_only_on_demand"
METRICS = "tests/deploy/test_compose_metrics.py"
DEPLOYS = "tests/deploy/test_compose_deploy.py"
DEPLOYED = f"{DEPLOYS}::test_a_deploy_and_a_rollback_replace_all_replicas_and_no_request_fails"

RUN_BY = {
    "./run status": "tests/deploy/test_compose.py::test_status_says_what_is_wrong",
    "./run logs": f"{NATIVE}::test_logs_follows_every_programs_log",
    "./run up": f"{NATIVE}::test_it_answers_where_it_says",
    "./run db": f"{NATIVE}::test_db_is_a_client_of_the_database_as_the_services_user",
    "./run deploy": DEPLOYED,
    "./run rollback": DEPLOYED,
    "./run rotate": f"{DEPLOYS}::test_new_passwords_and_a_new_key_fail_no_request_and_the_former_password_is_refused",
    "./run migrate": f"{NATIVE}::test_migrate_is_alembic_on_this_database",
    "./run migrate current": f"{NATIVE}::test_migrate_is_alembic_on_this_database",
    "./run check-nginx": "tests/test_run.py::test_nginx_takes_its_configuration_with_the_default_settings",
    "./run quart jobs list": "tests/platform/test_jobs.py::"
    "test_the_list_says_when_jobs_are_due_and_what_became_of_them",
    # --- counter
    "./run quart receipts verify": "tests/counter/test_compose_backup.py::"
    "test_a_table_that_was_dropped_is_there_again_with_all_numbers_and_the_stack_goes_on_counting",
    # --- end of counter
    "./run backup": BESIDE,
    "./run backup --logs": BESIDE,
    "./run backup --list": BESIDE,
    "./run backup --changes": BESIDE,
    "./run restore": BESIDE,
    "./run certificate --show": "tests/deploy/test_native_tls.py::"
    "test_it_says_where_it_answers_and_until_when_its_certificate_is",
    "./run certificate chain.pem key.pem": "tests/deploy/test_native_tls.py::"
    "test_a_certificate_is_loaded_while_it_serves_and_a_bad_one_leaves_it",
    "./run certificate --self-signed": "tests/deploy/test_certificate.py",
    "./run certificate --acme": "tests/deploy/test_native_tls.py::"
    "test_an_acme_server_issues_a_certificate_and_again_only_when_it_is_time",
    "./run secrets --renew": "tests/deploy/test_native_start.py::"
    "test_lost_secrets_beside_kept_data_are_told_and_made_anew_only_when_told_to",
    "C ps": "tests/deploy/test_compose_overrides.py::test_a_mysql_of_ones_own_takes_the_containers_place",
    "C logs web": "tests/deploy/test_compose.py::test_the_replicas_share_the_processors_however_many_they_are",
    "C logs migrate": SECRETS,
    "C logs secrets migrate": SECRETS,
    "C run --rm --no-deps secrets --renew": SECRETS,
    "C up --detach": "tests/deploy/test_compose.py::test_the_replicas_share_the_processors_however_many_they_are",
    "C up --detach --build": "tests/deploy/test_compose.py::test_one_command_on_a_fresh_clone_brings_all_up",
    "C up --detach --no-recreate": "tests/deploy/test_compose_faults.py::"
    "test_more_replicas_get_their_share_within_seconds_with_no_edit",
    "C up --detach --force-recreate": f"{COMPOSE_BACKUP}::"
    "test_a_restore_in_place_is_noted_in_the_file_of_the_stacks_settings_and_is_none_without_that",
    "C --profile observability logs exporter": f"{METRICS}::test_it_finds_every_replica_and_all_its_rules_work",
    "C --profile observability up --detach --no-recreate": f"{METRICS}::prometheus",
    "docker inspect CONTAINER": "harness/compose.py::inspect",
    "docker image ls": "harness/compose.py::remove",
    "docker image rm NAME:TAG": "harness/compose.py::remove",
}
"""Where each command of the sections on what is wrong is run."""


def test_each_command_of_a_remedy_is_run_by_a_test() -> None:
    named = {line for line in code(REMEDIES) if line.startswith(("./run ", "C ", "docker "))}
    assert named == set(RUN_BY)
    for place in RUN_BY.values():
        path, _, name = place.partition("::")
        if path == DEPLOYS and not (ROOT / path).exists():
            continue  # in a copy, which has no load to deploy under
        assert name in (ROOT / path).read_text(), place


def test_each_statement_of_a_remedy_is_one_that_the_server_takes(database: Database) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    ((most,),) = database.execute("SELECT @@max_connections")
    kinds = ("SELECT ", "SHOW ", "SET ", "FLUSH ", "TRUNCATE ")
    statements = {line for line in code(REMEDIES) if line.startswith(kinds)}
    ((version,),) = database.execute("SELECT VERSION()")
    others = "host_cache" if "MariaDB" in version else "FLUSH HOSTS"
    try:
        for statement in statements:
            if others not in statement:
                database.execute(statement)
    finally:
        database.execute(f"SET GLOBAL max_connections = {most}")
