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
_WRITTEN = re.compile(r"""'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|(?:(?!\s\#).)*""")
"""A value as it is written, without a remark after it."""


class QuartenvError(ValueError):
    """`.quartenv` cannot be read; the text is one sentence, with the line and without its value."""


def load(path: Path) -> None:
    """Fills what the environment lacks, unless python-dotenv's PYTHON_DOTENV_DISABLED is set. Raises QuartenvError."""
    if os.environ.get("PYTHON_DOTENV_DISABLED", "").casefold() not in {"1", "true", "t", "yes", "y"}:
        os.environ.update({**read(path), **os.environ})


def read(path: Path) -> dict[str, str]:
    """Returns the settings by name, none if there is no such file. Raises QuartenvError."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
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
    written = _WRITTEN.match(binding.original.string.partition("=")[2].lstrip())
    return _fault_of_quotes(binding.key, written[0] if written else "")


def _fault_of_quotes(name: str, written: str) -> str | None:
    in_single_quotes = written.startswith("'")
    if "${" in written:
        return f"`${{` in the value of {name} would be replaced by some commands; use {name}_FILE for it"
    if "$" in written and not in_single_quotes:
        return f"the $ in the value of {name} must be within single quotes, or Compose would replace it"
    if in_single_quotes and "\\\\" in written:
        return (
            f"two backslashes in the value of {name}, within single quotes, are read as two or as one; "
            "use double quotes, in which two are one"
        )
    return None


if __name__ == "__main__":
    try:
        found = read(Path(sys.argv[1]))
    except QuartenvError as error:
        sys.exit(f"{error}.")
    for name, value in found.items():
        print(f"export {name}={shlex.quote(value)}")
