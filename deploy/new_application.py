"""Makes a copy of this repository with an application of your own in it: `./run new ../my-app`.

A copy is what git tracks, without the counter (LEFT_OUT, and what stands between two marks in a file that stays), with
`starter/` laid over it, and with the copy's name in place of this project's. It is a repository of its own. Its branch
`upstream` has nothing but such copies: `./run new --update ../my-app` adds today's, and `git merge upstream` in the
copy takes over what has changed. Needs nothing but Python and git.
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STARTER = "starter"

LEFT_OUT = (
    # The counter.
    "service/counter",
    "tests/counter",
    "docs/counter",
    "deploy/prometheus/counter.json",
    "migrations/versions",
    # Its load, the research instrument, the examples, and what only these use.
    "loadtests/checks",
    "loadtests/proof",
    "loadtests/scenarios",
    "tests/loadtests",
    "benchmarks",
    "tests/benchmarks",
    "examples",
    "tests/examples",
    "docs/from-flask-sqlalchemy.md",
    "harness/environments.py",
    "harness/load.py",
    "harness/machine.py",
    *(
        f"requirements/{name}.{ending}"
        for name in ("charts", "fastapi", "flask_patch", "servers")
        for ending in ("in", "txt")
    ),
    # What makes copies.
    STARTER,
    "deploy/new_application.py",
    "tests/test_new.py",
    # Whose clients are those of the counter's load.
    "tests/deploy/deploys.py",
    "tests/deploy/test_compose_deploy.py",
    "tests/deploy/test_compose_rehearsals.py",
    "tests/deploy/test_systemd_rehearsals.py",
    "harness/systemd.py",
)
"""Files and folders that no copy has."""

REPLACED = (
    ("pyproject.toml", '"asgi", "counter", "platform"', '"asgi", "notes", "platform"'),
    ("pyproject.toml", '"benchmarks", ', ""),
    ("pyproject.toml", " and the benchmarks", ""),
    ("tests/test_import_rules.py", '"benchmarks", ', ""),
    ("tests/test_import_rules.py", " and the benchmarks", ""),
    ("harness/__init__.py", "the tests, the load tests and the benchmarks", "the tests and the load tests"),
    ("run", "; --compare: with flask_patch", ""),
    ("docker-compose.prod.yml", "HEALTH_PATH:-/counters", "HEALTH_PATH:-/notes"),
    (".quartenv.example", "HEALTH_PATH=/counters", "HEALTH_PATH=/notes"),
)
"""Replacements within a line: file, old text, new text."""

SECTION = ".section"
"""`starter/FILE.section` replaces the first passage that is left out of FILE."""

LICENSE = "LICENSE"
"""Stays as it is: the MIT license asks that every copy has the copyright notice."""

_PASSAGE = re.compile(
    r"""
    ^\ *(?:\#|<!--)\ ---\ counter\b.*\n
    (?:.*\n)*?
    ^\ *(?:\#|<!--)\ ---\ end\ of\ counter\b.*\n
    (?P<blank>\n*)
    """,
    re.MULTILINE | re.VERBOSE,
)

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_LONGEST = 22
"""Characters: with `_migration` it is the name of a user, which in MySQL has 32 at the most."""

BRANCH = "upstream"
REFERENCE = f"refs/heads/{BRANCH}"
AUTHOR = "upstream@localhost"
"""Of every commit on the branch, by which it is known."""

_TAKEN = {
    *("tally", "counter"),
    *("mysql", "sys", "information_schema", "performance_schema", "root", "public"),  # the servers' own
    *("true", "false", "null", "yes", "no", "on", "off", "y", "n"),  # what some readers of YAML take for something else
    *("service", "platform", "notes", "migrations", "deploy", "harness", "loadtests", "tests"),  # folders of a copy
    *("web", "nginx", "migrate", "secrets", "test"),  # services of its compose files
    "systemd",  # whose units those of a copy would replace
}


class Refused(Exception):
    """The copy cannot be made; the text is one sentence that says why."""


def name_of(target: Path) -> str:
    """Returns the copy's name as an identifier, which is made of its folder's. Raises Refused."""
    name = target.name.replace("-", "_")
    if _NAME.fullmatch(target.name) is None or len(name) > _LONGEST:
        raise Refused(
            f"{target.name!r} cannot be the name of an application: it must have 1 to {_LONGEST} of a-z, 0-9, - and _, "
            "begin with a letter, and have a letter or a digit at each side of - and _."
        )
    if name in _TAKEN:
        raise Refused(f"{target.name!r} cannot be the name of an application: it means something else already.")
    return name


def renamed(text: str, name: str) -> str:
    """Returns the text with the copy's name in the place of this project's, as an identifier or as a title."""
    title = name.replace("_", " ").title()
    return re.sub(r"(?<![A-Za-z])(tally|Tally)(?![A-Za-z])", lambda found: title if found[1] == "Tally" else name, text)


def without_the_counter(path: str, text: str, section: str = "") -> str:
    """Returns the text of that file without the passages between marks; `section` takes the place of the first."""
    for file, old, new in REPLACED:
        if file == path:
            if old not in text:
                raise Refused(f"{path} does not hold {old!r}: bring REPLACED in {Path(__file__).name} up to date.")
            text = text.replace(old, new)
    passages = 0

    def instead(passage: re.Match[str]) -> str:
        nonlocal passages
        passages += 1
        # Where blank lines stand before a passage and after it, one of both is enough.
        between = passage["blank"] if not passage.string[: passage.start()].endswith("\n\n") else ""
        return (section if passages == 1 else "") + between

    text = _PASSAGE.sub(instead, text)
    if section and not passages:
        raise Refused(f"{path} has no passage about the counter that {STARTER}/{path}{SECTION} could replace.")
    return text.rstrip("\n") + "\n" if passages else text


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """Runs git in that repository and returns what it printed. Raises Refused."""
    # The commits on the branch are nobody's, so that none has to tell git its name first.
    own = ("-c", "user.name=upstream", "-c", f"user.email={AUTHOR}", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *own, *arguments]
    # Without what a hook that runs this would say of another repository.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ended = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Refused(f"git {arguments[0]} in {folder} failed: {ended.stderr.strip() or ended.stdout.strip()}")
    return ended.stdout


def tracked() -> list[str]:
    """Returns the files that git tracks here and that are here. Raises Refused."""
    listed = git(ROOT, "ls-files", "-z") if (ROOT / ".git").exists() else ""
    names = [name for name in listed.split("\0") if (ROOT / name).is_file()]
    if f"{STARTER}/README.md" not in names:
        raise Refused(f"{ROOT} is no clone: a copy has the files that git tracks.")
    return names


def message() -> str:
    """Returns the commit message, which names the commit here."""
    return f"A copy of {git(ROOT, 'describe', '--always', '--dirty').strip()}"


def copy(into: Path, name: str) -> None:
    """Writes the copy into a new folder."""
    names = tracked()
    overlay = {path.removeprefix(f"{STARTER}/"): path for path in names if path.startswith(f"{STARTER}/")}
    for path in names:
        if path not in overlay and not any(path == one or path.startswith(f"{one}/") for one in LEFT_OUT):
            text = _text(path)
            if text is not None:
                section = overlay.get(path + SECTION)
                text = without_the_counter(path, text, _text(section) or "" if section else "")
            _write(into, path, path, text, name)
    for path, source in overlay.items():
        if not path.endswith(SECTION):
            _write(into, path, source, _text(source), name)


def _text(path: str) -> str | None:
    """Returns the file's text, None if it holds none."""
    try:
        return (ROOT / path).read_text("utf-8")
    except UnicodeDecodeError:
        return None


def _write(into: Path, path: str, source: str, text: str | None, name: str) -> None:
    """Writes a file of the copy with the mode of its source, and its bytes where it has no text."""
    new = into / renamed(path, name)
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / source, new)
    if text is not None:
        new.write_text(text if path == LICENSE else renamed(text, name), "utf-8")


def make(target: Path) -> None:
    """Makes the copy at `target`, whole or not at all. Raises Refused."""
    if target.exists() or target.is_symlink():
        raise Refused(f"{target} exists: name a folder that does not, or take over what is new with --update.")
    if target.is_relative_to(ROOT):
        raise Refused(f"{target} lies within this repository: name a folder beside it, as ../my-app.")
    name = name_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as folder:
            new = Path(folder) / name
            copy(new, name)
            git(new, "init", "--quiet", f"--initial-branch={BRANCH}")
            git(new, "add", "--all", "--force")
            git(new, "commit", "--quiet", "--no-verify", "--message", message())
            git(new, "switch", "--quiet", "--create", "main")
            new.rename(target)
    except OSError as error:
        raise Refused(f"{target} could not be made: {error.strerror or error}.") from error


def last_copy(target: Path) -> tuple[str, str]:
    """Returns the target's last commit that is a copy, and the branch's own commit: none in a clone of the target.

    A clone has the branch as its remote's, or not at all if it was never pushed; what was merged names its author.
    Raises Refused.
    """
    try:
        own = git(target, "for-each-ref", "--format=%(objectname)", REFERENCE).strip()
        remotes = git(target, "for-each-ref", "--format=%(objectname)", f"refs/remotes/*/{BRANCH}").split()
        merged = git(target, "log", "-1", "--format=%H", f"--author=<{AUTHOR}>").strip()
        last = own or next(iter(remotes), merged)
        author = git(target, "log", "-1", "--format=%ae", last).strip() if last else None
    except (Refused, OSError):
        author = None
    if author is None:
        raise Refused(f"{target} is no copy that ./run new has made: it has no branch {BRANCH}.") from None
    if author != AUTHOR:
        raise Refused(
            f"The last commit of {target}'s branch {BRANCH} is none of ./run new's, and no other may be there."
        )
    if git(target, "for-each-ref", "--format=%(worktreepath)", REFERENCE).strip():
        raise Refused(f"{target} has the branch {BRANCH} checked out: switch to your own, as `git switch main`.")
    return last, own


def update(target: Path) -> bool:
    """Commits today's copy to the target's branch, and changes nothing else; returns whether there was a difference.

    Raises Refused.
    """
    last, own = last_copy(target)
    project = git(target, "show", f"{last}:pyproject.toml")
    name = re.search(r'^name = "(.*)"$', project, re.MULTILINE)
    if name is None:
        raise Refused(f"The pyproject.toml of {target}'s branch {BRANCH} has no name.")
    with tempfile.TemporaryDirectory(prefix="upstream-") as folder:
        new = Path(folder) / "copy"
        copy(new, name[1])
        index = {"GIT_INDEX_FILE": f"{folder}/index", "GIT_WORK_TREE": str(new)}
        directory = git(target, "rev-parse", "--absolute-git-dir").strip()
        git(new, f"--git-dir={directory}", "add", "--all", "--force", **index)
        tree = git(new, f"--git-dir={directory}", "write-tree", **index).strip()
    different = tree != git(target, "rev-parse", f"{last}^{{tree}}").strip()
    commit = git(target, "commit-tree", tree, "-p", last, "-m", message()).strip() if different else last
    git(target, "update-ref", REFERENCE, commit, own)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run new", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path, help="the new folder; its name becomes that of the application")
    parser.add_argument("--update", action="store_true", help=f"bring the branch {BRANCH} of a copy up to date")
    given = parser.parse_args()
    target = given.target.absolute().parent.resolve() / given.target.absolute().name
    try:
        if not given.update:
            make(target)
            print(f"-- {target} is yours: its README.md says how it is run, and where your code goes")
        elif update(target):
            print(f"-- {target}: the branch {BRANCH} has what is new; `git merge {BRANCH}` there takes it over")
        else:
            print(f"-- {target}: the branch {BRANCH} was up to date")
    except Refused as error:
        raise SystemExit(f"run: {error}") from None


if __name__ == "__main__":
    main()
