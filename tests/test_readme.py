import re
import subprocess
import sys
import uuid

import pytest

from harness.databases import Database
from service.platform.settings import ROOT

BACKUPS = "tests/deploy/test_compose_backup.py"
COMMANDS = "tests/platform/test_commands.py"
# --- counter
DEPLOYS = "tests/deploy/test_compose_deploy.py"
SYSTEMD = "tests/deploy/test_systemd_rehearsals.py"
UPDATED = "tests/test_new.py::test_a_copy_takes_over_what_was_fixed_and_keeps_what_is_its_own"
# --- end of counter

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Returns the README's code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


# Where each command of the README is run. Those for other systems are in blocks of another kind, marked as not run.
RUN_BY = {
    "./run up": "tests/deploy/test_native.py::test_it_answers_where_it_says",
    "docker-compose -f docker-compose.prod.yml up": (
        "tests/deploy/test_compose.py::test_one_command_on_a_fresh_clone_brings_all_up"
    ),
    "./run test": ".ci/run",
    "alembic upgrade head": f"{COMMANDS}::test_alembic_quart_and_hypercorn_work_with_quartenv_alone",
    "quart run": f"{COMMANDS}::test_alembic_quart_and_hypercorn_work_with_quartenv_alone",
    "hypercorn --config hypercorn.toml service.asgi:app": (
        f"{COMMANDS}::test_alembic_quart_and_hypercorn_work_with_quartenv_alone"
    ),
    "WEB_REPLICAS=4 docker-compose -f docker-compose.prod.yml up --detach --wait": (
        "tests/deploy/test_compose.py::test_the_replicas_share_the_processors_however_many_they_are"
    ),
    "docker-compose -f docker-compose.prod.yml run --rm migrate current": (
        "tests/deploy/test_compose.py::test_the_migration_job_takes_any_command_of_alembics"
    ),
    "./run logs": "tests/deploy/test_native.py::test_logs_follows_every_programs_log_on_a_terminal_for_people",
    "./run backup": f"{BACKUPS}::test_a_backup_is_restored_beside_the_stack_up_to_a_moment",
    "./run restore --to 2026-11-26T17:20:00": f"{BACKUPS}::test_a_backup_is_restored_beside_the_stack_up_to_a_moment",
    "./run shell": "tests/deploy/test_native.py::test_shell_is_a_python_shell_in_the_application",
    "./run quart --help": (
        "tests/deploy/test_native.py::test_quart_runs_a_command_of_the_applications_with_the_settings_of_what_runs"
    ),
    "./run db": "tests/deploy/test_native.py::test_db_is_a_client_of_the_database_as_the_services_user",
    "docker-compose -f docker-compose.prod.yml -f deploy/compose.dev.yml up": (
        "tests/deploy/test_compose_overrides.py::test_development_reloads_what_changes_and_runs_the_tests_inside"
    ),
    "docker-compose -f docker-compose.prod.yml -f deploy/compose.dev.yml run --rm test": (
        "tests/deploy/test_compose_overrides.py::test_development_reloads_what_changes_and_runs_the_tests_inside"
    ),
    "docker-compose -f docker-compose.prod.yml --profile observability up": (
        "tests/deploy/test_compose_metrics.py::test_every_query_and_tile_of_the_dashboards_has_a_value_under_load"
    ),
    # --- counter
    "./run install systemd": f"{SYSTEMD}::test_installed_again_it_changes_nothing_and_nobody_else_reads_what_is_secret",
    "./run deploy": f"{DEPLOYS}::test_a_deploy_and_a_rollback_replace_all_replicas_and_no_request_fails",
    "./run rollback": f"{DEPLOYS}::test_a_deploy_and_a_rollback_replace_all_replicas_and_no_request_fails",
    "./run bench --quick": (
        "tests/benchmarks/test_bench.py::test_other_stacks_are_measured_beside_it_with_a_normal_and_a_slow_database"
    ),
    "./run load --compare": "tests/loadtests/test_proof.py::test_the_proof_ends_with_a_table_of_ratios_and_a_chart",
    "./run load visitors --headless --users 50 --spawn-rate 50 --hits 20000": (
        "tests/counter/test_native_counter.py::test_a_load_run_ends_with_0"
    ),
    "./run load visitors --headless --users 10 --spawn-rate 10 --run-time 5m": (
        "tests/deploy/test_compose_metrics.py::test_the_readmes_page_dashboard_and_api_move_under_load"
    ),
    "./run new ../my-app": "tests/test_new.py::made",
    "./run new --update ../my-app": UPDATED,
    "git -C ../my-app merge upstream": UPDATED,
    # --- end of counter
    "apt-get install --yes mariadb-server": "deploy/native/common.sh::need_servers",
    "mariadb": "tests/test_readme.py::test_the_sql_of_the_readme_makes_a_database_for_both_users",
}


def test_every_command_of_the_readme_is_run_by_a_test_or_by_ci() -> None:
    assert {line for block in blocks("sh") for line in block.splitlines() if line} == set(RUN_BY)
    for command, place in RUN_BY.items():
        path, _, name = place.partition("::")
        # --- counter
        # Who put an application in the counter's place has deleted these tests.
        if not (ROOT / path).exists() and path.startswith(("tests/counter/", "tests/loadtests/", "tests/benchmarks/")):
            continue
        # --- end of counter
        assert (name or command) in (ROOT / path).read_text(), place


def test_the_sql_of_the_readme_makes_a_database_for_both_users(
    empty_database: Database, plain_environment: dict[str, str]
) -> None:
    if not empty_database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    name = f"t{uuid.uuid4().hex[:8]}"  # a user's name has 32 characters at the most
    (sql,) = blocks("sql")
    statements = [line for line in re.sub(r"\b(tally)(?=\b|_)", name, sql).split(";\n") if line]
    environment = {
        **plain_environment,
        "DB_HOST": empty_database.server.host,
        "DB_PORT": str(empty_database.server.port),
        "DATABASE_NAME": name,
        "DB_USERNAME": name,
        "DB_PASSWORD": "a password",
        "MIGRATION_DB_USERNAME": f"{name}_migration",
        "MIGRATION_DB_PASSWORD": "another password",
    }
    try:
        empty_database.server.execute(*statements)
        for command in ["upgrade", "head"], ["downgrade", "base"], ["upgrade", "head"]:
            subprocess.run([sys.executable, "-m", "alembic", *command], cwd=ROOT, env=environment, check=True)
        with empty_database.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SHOW GRANTS FOR '{name}'@'%'")
            rows, *more = [grant for (grant,) in cursor.fetchall() if "USAGE" not in grant]
        assert not more
        assert rows.startswith(f"GRANT SELECT, INSERT, UPDATE, DELETE ON `{name}`.*")
    finally:
        empty_database.server.execute(
            f"DROP DATABASE IF EXISTS {name}", f"DROP USER IF EXISTS '{name}'@'%', '{name}_migration'@'%'"
        )
