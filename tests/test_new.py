"""`./run new`: a copy has nothing of the counter and passes its own checks and tests; what cannot be one is refused."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.databases import Database, DatabaseServer
from service.platform.settings import ROOT

NAME, TITLE = "my_app", "My App"

WORDS = re.compile(r"(?:^|[^a-z])(?:tally|counter)", re.IGNORECASE)
ALLOWED = {
    ("LICENSE", "Copyright (c) 2026 The Tally maintainers"),  # which every copy must keep
    ("tests/deploy/test_compose_faults.py", "Counter"),  # of collections
}
"""Where a word of the counter may stand: the file, and what its line holds."""

OF_PROMETHEUS = re.compile(r"\b_?counter(MetricFamily)?\b", re.IGNORECASE)
"""A type of metrics, which these files may name."""

WITH_METRICS = {
    "deploy/exporter.py",
    "docs/metrics.md",
    "service/notes/metrics.py",
    "service/platform/exposition.py",
    "service/platform/metrics.py",
    "service/platform/worker_metrics.py",
    "tests/platform/test_metrics.py",
    "tests/platform/test_worker_metrics.py",
}

LINK = re.compile(r"\]\((?!https?:)([^)#]+)")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a copy has what git tracks, and this is no clone")


def new(target: Path, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs ./run new from `directory` and returns how it ended."""
    return subprocess.run([ROOT / "run", "new", target], cwd=directory, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, with the virtual environment of these tests."""
    target = tmp_path_factory.mktemp("new") / "my-app"
    ended = new(Path("my-app"), target.parent)
    assert ended.returncode == 0, ended.stderr
    (target / ".venv").symlink_to(Path(sys.executable).parents[1])
    return target


def files(made: Path) -> list[Path]:
    """Returns the copy's files, but for what tests and tools write."""
    written = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".run"}
    return [path for path in sorted(made.rglob("*")) if path.is_file() and not written & set(path.parts)]


def run(made: Path, environment: dict[str, str], *arguments: str) -> str:
    """Runs a Python module's command in the copy and returns what it printed."""
    command = [sys.executable, "-m", *arguments]
    ended = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    return ended.stdout


def of_the_copys_tests(plain_environment: dict[str, str], server: DatabaseServer) -> dict[str, str]:
    """The tests of the copy use the server that these tests use, and are not part of their coverage."""
    kept = {name: value for name, value in plain_environment.items() if not name.startswith(("COVERAGE", "COV_"))}
    secret = "MYSQL_ROOT_PASSWORD" if server.is_root else "DB_PASSWORD"
    return {
        **kept,
        "DB_HOST": server.host,
        "DB_PORT": str(server.port),
        "DB_USERNAME": server.username,
        secret: server.password,
    }


def test_no_word_of_the_counter_or_of_this_project_is_left(made: Path) -> None:
    found = []
    for path in files(made):
        name = str(path.relative_to(made))
        lines = [name, *path.read_text().splitlines()]
        if name in WITH_METRICS:
            lines = [OF_PROMETHEUS.sub("", line) for line in lines]
        found += [(name, line) for line in lines if WORDS.search(line)]
    assert [
        (name, line) for name, line in found if not any(name == file and word in line for file, word in ALLOWED)
    ] == []
    assert len(found) < 10
    gone = re.compile(r"\b(hits|lanes?|roll-up|receipts|benchmarks)\b|LANE_|flask_patch", re.IGNORECASE)
    assert [path for path in files(made) if gone.search(path.read_text())] == []


def test_the_copys_name_stands_where_this_projects_stood(made: Path) -> None:
    assert f'name = "{NAME}"' in (made / "pyproject.toml").read_text()
    compose = (made / "docker-compose.prod.yml").read_text()
    assert f"name: {NAME}\n" in compose
    assert f"MIGRATION_DB_USERNAME: {NAME}_migration" in compose
    assert f"${{COMPOSE_PROJECT_NAME:-{NAME}}}" in compose
    assert (made / "README.md").read_text().startswith(f"# {TITLE}\n")
    assert (made / f"deploy/mysql/{NAME}.cnf").exists()


def test_all_that_may_be_run_may_be_run_in_the_copy(made: Path) -> None:
    for name in "run", ".ci/run", "deploy/native/up", "deploy/mariadb/start":
        assert os.access(made / name, os.X_OK), name
    listed = subprocess.run([made / "run"], capture_output=True, text=True).stdout
    assert "./run load" in listed
    assert not re.search(r"^./run (new|bench) ", listed, re.MULTILINE)


def test_every_link_of_the_copys_documents_leads_somewhere(made: Path) -> None:
    documents = [path for path in files(made) if path.suffix == ".md"]
    assert len(documents) > 6
    for document in documents:
        for link in LINK.findall(document.read_text()):
            assert (document.parent / link).exists(), f"{document.relative_to(made)}: {link}"


@pytest.mark.long
def test_the_copy_passes_its_own_checks(made: Path, plain_environment: dict[str, str]) -> None:
    run(made, plain_environment, "ruff", "check", ".")
    run(made, plain_environment, "ruff", "format", "--check", ".")
    known = ROOT / ".mypy_cache"  # what ./run lint has found out about the libraries
    if known.exists():
        shutil.copytree(known, made / ".mypy_cache")
    run(made, plain_environment, "mypy", "--strict", ".")
    rules = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    assert subprocess.run(rules, cwd=made, env={"COLUMNS": "200"}, capture_output=True).returncode == 0


@pytest.mark.parametrize("name", ["a", "a-name-of-22-characters"[:22]])
def test_a_copy_with_the_shortest_or_longest_name_is_as_well_formed(
    name: str, tmp_path: Path, plain_environment: dict[str, str]
) -> None:
    assert new(tmp_path / name).returncode == 0
    run(tmp_path / name, plain_environment, "ruff", "check", ".")
    run(tmp_path / name, plain_environment, "ruff", "format", "--check", ".")


def test_the_copys_first_revision_is_what_its_tables_say(
    made: Path, empty_database: Database, environment: dict[str, str]
) -> None:
    run(made, environment, "alembic", "upgrade", "head")
    run(made, environment, "alembic", "check")
    assert empty_database.execute("SHOW TABLES LIKE 'notes'")


@pytest.mark.any_database
@pytest.mark.long
def test_the_copys_own_tests_pass(made: Path, empty_database: Database, plain_environment: dict[str, str]) -> None:
    environment = of_the_copys_tests(plain_environment, empty_database.server)
    chosen = "tests/notes", "tests/test_readme.py", "tests/platform/test_settings.py"
    printed = run(made, environment, "pytest", "-q", "-m", "not rehearsal", *chosen)
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 20


@pytest.mark.compose
@pytest.mark.native
@pytest.mark.rehearsal
def test_the_copys_own_ci_passes(made: Path, tmp_path: Path, plain_environment: dict[str, str]) -> None:
    """It lints, starts the copy natively and by its compose file, loads it, and runs Alembic's commands."""
    git(tmp_path, "clone", "--quiet", str(made), "clone")
    ended = subprocess.run(
        [tmp_path / "clone/.ci/run"],
        env={**plain_environment, "CI": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]


def git(folder: Path, *arguments: str) -> str:
    """Runs git in a repository as somebody and returns what it printed."""
    command = ["git", "-c", "user.name=somebody", "-c", "user.email=somebody@localhost", *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def change(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository in which the platform, nginx and the starter were changed."""
    clone = tmp_path_factory.mktemp("clone") / "newer"
    git(ROOT, "clone", "--quiet", str(ROOT), str(clone))
    for name in git(ROOT, "diff", "--name-only", "HEAD").splitlines():  # what is not committed here yet
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, clone / name)
    change(clone, "service/platform/health.py", '"""', '"""Fixed. ')
    change(clone, "nginx.conf", "server_tokens off", "server_tokens  off")
    change(clone, "starter/service/notes/errors.py", "There is no note", "There is not one note")
    (clone / "service/platform/novel.py").write_text('"""New in the platform of Tally."""\n')
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "Fix the platform")
    return clone


def update(clone: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Runs ./run new --update in a clone and returns how it ended."""
    return subprocess.run([clone / "run", "new", "--update", target], cwd=target.parent, capture_output=True, text=True)


def test_a_copy_takes_over_what_was_fixed_and_keeps_what_is_its_own(fixed: Path, tmp_path: Path) -> None:
    untouched, changed = tmp_path / "untouched", tmp_path / "changed"
    for target in untouched, changed:
        assert new(target).returncode == 0
    git(changed, "mv", "service/notes", "service/letters")
    change(changed, "service/__init__.py", "notes", "letters")
    change(changed, "nginx.conf", "worker_connections", "worker_connections  ")
    git(changed, "rm", "--quiet", "docs/notes.md")
    git(changed, "commit", "--quiet", "--all", "--message", "Ours")
    (changed / "unfinished").write_text("not committed")
    for target in untouched, changed:
        before = git(target, "status", "--porcelain"), git(target, "rev-parse", "HEAD")
        ended = update(fixed, target)
        assert (ended.returncode, ended.stdout.count("git merge upstream")) == (0, 1), ended.stderr
        assert (git(target, "status", "--porcelain"), git(target, "rev-parse", "HEAD")) == before
        assert "was up to date" in update(fixed, target).stdout
        git(target, "merge", "--no-edit", "upstream")
        assert '"""Fixed. ' in (target / "service/platform/health.py").read_text()
        assert "server_tokens  off" in (target / "nginx.conf").read_text()
        novel = (target / "service/platform/novel.py").read_text()
        assert novel == f'"""New in the platform of {target.name.title()}."""\n'
    assert "There is not one note" in (untouched / "service/notes/errors.py").read_text()
    assert "There is not one note" in (changed / "service/letters/errors.py").read_text()
    assert "import letters" in (changed / "service/__init__.py").read_text()
    assert "worker_connections  " in (changed / "nginx.conf").read_text()
    assert not (changed / "docs/notes.md").exists()
    assert (changed / "unfinished").exists()


def test_who_has_deleted_the_starter_is_asked_by_git_about_its_files_alone(fixed: Path, tmp_path: Path) -> None:
    target = tmp_path / "replaced"
    assert new(target).returncode == 0
    git(target, "rm", "-r", "--quiet", "service/notes", "tests/notes", "docs/notes.md", "migrations/versions")
    git(target, "commit", "--quiet", "--message", "Ours")
    assert update(fixed, target).returncode == 0
    merge = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost", "merge", "--no-edit", "upstream"]
    assert subprocess.run(merge, cwd=target, capture_output=True).returncode == 1
    assert git(target, "diff", "--name-only", "--diff-filter=U").split() == ["service/notes/errors.py"]
    git(target, "rm", "--quiet", "service/notes/errors.py")
    git(target, "commit", "--quiet", "--no-edit")
    assert not (target / "service/notes").exists()
    assert '"""Fixed. ' in (target / "service/platform/health.py").read_text()


@pytest.mark.parametrize("pushed", [["main", "upstream"], ["main"]])
def test_a_clone_of_a_copy_takes_over_what_was_fixed_as_well(pushed: list[str], fixed: Path, tmp_path: Path) -> None:
    target, hub, clone = (tmp_path / name for name in ("my-app", "hub", "clone"))
    assert new(target).returncode == 0
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(hub))
    git(target, "push", "--quiet", str(hub), *pushed)
    git(tmp_path, "clone", "--quiet", str(hub), str(clone))
    for file in "README.md", "docs/notes.md":
        change(clone, file, "# ", "# Our ")
        git(clone, "commit", "--quiet", "--all", "--message", f"Ours in {file}")
    assert update(fixed, clone).returncode == 0
    git(clone, "merge", "--no-edit", "upstream")
    assert '"""Fixed. ' in (clone / "service/platform/health.py").read_text()
    assert (clone / "README.md").read_text().startswith("# Our My App\n")
    assert git(clone, "rev-parse", "upstream~1") == git(target, "rev-parse", "upstream")


def test_what_is_no_copy_cannot_be_updated(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "--quiet")
    for target in tmp_path / "other", tmp_path / "nothing":
        ended = update(ROOT, target)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == f"run: {target} is no copy that ./run new has made: it has no branch upstream.\n"


def test_the_branch_is_left_alone_where_it_is_in_use_or_has_a_commit_of_somebodys(tmp_path: Path) -> None:
    target = tmp_path / "my-app"
    assert new(target).returncode == 0
    git(target, "switch", "--quiet", "upstream")
    before = git(target, "rev-parse", "upstream")
    used = update(ROOT, target)
    assert (used.returncode, used.stderr.count("has the branch upstream checked out")) == (1, 1)
    git(target, "commit", "--quiet", "--allow-empty", "--message", "Ours")
    git(target, "switch", "--quiet", "main")
    mixed = update(ROOT, target)
    assert (mixed.returncode, mixed.stderr.count("is none of ./run new's")) == (1, 1)
    assert git(target, "rev-parse", "upstream~1") == before


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    ended = new(tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"run: {tmp_path} exists: name a folder that does not")


def test_a_folder_within_the_repository_is_refused() -> None:
    ended = new(Path("my-app"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"run: {ROOT / 'my-app'} lies within this repository")
    assert not (ROOT / "my-app").exists()


@pytest.mark.parametrize(
    "name",
    [
        "My-App",
        "1-app",
        "my--app",
        "app-",
        "my app",
        "a" * 23,
        "mysql",
        "systemd",
        "counter",
        "tally",
        "true",
        "platform",
    ],
)
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    ended = new(tmp_path / name)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"run: {name!r} cannot be the name of an application: ")
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
