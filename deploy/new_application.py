"""Makes a copy of this repository with an application of your own in it: `./run new ../my-app`.

A copy is what git tracks, without the counter (LEFT_OUT, and what stands between two marks in a file that stays), with
`starter/` laid over it, and with the copy's name in place of this project's. Needs nothing but Python and git.
"""

import argparse
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
    "migrations/versions",
    # Its load, the research instrument, and what only these use.
    "loadtests/checks",
    "loadtests/proof",
    "loadtests/scenarios",
    "tests/loadtests",
    "benchmarks",
    "tests/benchmarks",
    "harness/environments.py",
    "harness/load.py",
    "harness/machine.py",
    *(f"requirements/{name}.{ending}" for name in ("charts", "fastapi", "flask_patch") for ending in ("in", "txt")),
    # What makes copies.
    STARTER,
    "deploy/new_application.py",
    "tests/test_new.py",
    "tests/test_starter.py",
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
)
"""Words of the counter within a line: file, what stands there, what takes its place."""

SECTION = ".section"
"""`starter/FILE.section` takes the place of what is left out of FILE."""

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

_TAKEN = {
    *("tally", "counter"),
    *("mysql", "sys", "information_schema", "performance_schema", "root", "public"),  # the servers' own
    *("true", "false", "null", "yes", "no", "on", "off", "y", "n"),  # what some readers of YAML take for something else
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


def tracked() -> list[str]:
    """Returns the files that git tracks here and that are here. Raises Refused."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    if listed.returncode != 0 or f"{STARTER}/README.md" not in names:
        raise Refused(f"{ROOT} is no clone: a copy has the files that git tracks.")
    return names


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


def make(target: Path) -> str:
    """Makes the copy at `target`, whole or not at all, and returns its name. Raises Refused."""
    if target.exists() or target.is_symlink():
        raise Refused(f"{target} exists: name a folder that does not.")
    if target.is_relative_to(ROOT):
        raise Refused(f"{target} lies within this repository: name a folder beside it, as ../my-app.")
    name = name_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as folder:
            copy(Path(folder) / name, name)
            (Path(folder) / name).rename(target)
    except OSError as error:
        raise Refused(f"{target} could not be made: {error.strerror or error}.") from error
    return name


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run new", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path, help="the new folder; its name becomes that of the application")
    target = Path(parser.parse_args().target).absolute().parent.resolve() / parser.parse_args().target.absolute().name
    try:
        make(target)
    except Refused as error:
        raise SystemExit(f"run: {error}") from None
    print(f"-- {target} is yours: its README.md says how it is run, and where your code goes")


if __name__ == "__main__":
    main()
