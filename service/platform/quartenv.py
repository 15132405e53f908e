"""`.quartenv`, read so that python-dotenv, Compose and `./run` cannot understand it differently.

python-dotenv parses it. What another would read otherwise is refused: Compose replaces `$name` outside single quotes,
and within them it keeps two backslashes; the `quart` command replaces `${name}` everywhere. As a program, it prints
the settings for a shell.
"""

import os
import re
import shlex
import sys
from pathlib import Path

from dotenv.parser import Binding, parse_stream

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WRITTEN = re.compile(r"""'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|(?:(?! \#)[^\r\n])*""")
"""A value as it is written, without a remark after it."""

_OTHER_ESCAPES = re.compile(r"""(?:^|[^\\])(?:\\\\)*\\[^\\"ntr]""")
_ODD_REMARK = re.compile(r"^\#|[^\S ]\#")
_ODD_SPACE = re.compile(r"[^\S \t]")

_OF_THE_SHELL = {"UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO", "IFS"}
"""Variables that bash does not let one set, or that would change how it reads."""


class QuartenvError(ValueError):
    """`.quartenv` cannot be read; the text is one sentence, with the line and without its value."""


def load(path: Path) -> None:
    """Fills what the environment lacks, unless python-dotenv's PYTHON_DOTENV_DISABLED is set. Raises QuartenvError."""
    if os.environ.get("PYTHON_DOTENV_DISABLED", "").casefold() not in {"1", "true", "t", "yes", "y"}:
        os.environ.update({**read(path), **os.environ})


def read(path: Path) -> dict[str, str]:
    """Returns the settings by name, none if there is no such file. Raises QuartenvError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            bindings = list(parse_stream(stream))
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise QuartenvError(f"{path} cannot be read: it is not in UTF-8; save it in that encoding") from None
    except OSError as error:
        raise QuartenvError(f"{path} cannot be read: {error.strerror}") from None
    settings = {}
    for binding in bindings:
        if binding.key is None and not binding.error:
            continue  # a remark, or an empty line
        if fault := _fault(binding):
            before = len(binding.original.string) - len(binding.original.string.lstrip())
            line = binding.original.line + binding.original.string[:before].count("\n")
            raise QuartenvError(f"{path}, line {line}: {fault}")
        assert binding.key is not None
        assert binding.value is not None
        settings[binding.key] = binding.value
    return settings


def _fault(binding: Binding) -> str | None:
    if binding.error or binding.key is None:
        return "it is not NAME=value, or a quote is missing"
    if binding.value is None:
        return f"{binding.key} has no = and no value"
    if not _NAME.fullmatch(binding.key):
        return f"{binding.key!r} is no name of a setting: these are made of letters, digits and _"
    written = _WRITTEN.match(binding.original.string.partition("=")[2].lstrip(" \t"))
    return _fault_of_quotes(binding.key, written[0] if written else "")


def _fault_of_quotes(name: str, written: str) -> str | None:
    """What Compose (compose-go 2), python-dotenv 1 or the `quart` command would each read in their own way."""
    quote = written[:1] if written[:1] in {"'", '"'} else ""
    faults = (
        ("${" in written, f"`${{` in the value of {name} would be replaced by some commands; use {name}_FILE for it"),
        ("$" in written and quote != "'", f"the $ in the value of {name} must be within single quotes"),
        (
            "\\\\" in written and quote == "'",
            f"two backslashes in the value of {name} must be within double quotes, in which they are one",
        ),
        (
            quote == '"' and _OTHER_ESCAPES.search(written),
            f"a backslash in the value of {name}, within double quotes, must be before n, t, r, a quote or a backslash",
        ),
        (not quote and _ODD_REMARK.search(written), f"the # in the value of {name} must be quoted, or after one space"),
        (
            "\r" in written or "\0" in written or (not quote and _ODD_SPACE.search(written)),
            f"the value of {name} has a character that is no text, or space that is not ordinary; put it in quotes",
        ),
    )
    return next((text for is_so, text in faults if is_so), None)


if __name__ == "__main__":
    try:
        found = read(Path(sys.argv[1]))
    except QuartenvError as error:
        sys.exit(f"{error}.")
    for name, value in found.items():
        if name not in _OF_THE_SHELL:
            print(f"export {name}={shlex.quote(value)}")
