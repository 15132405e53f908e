"""`.quartenv` has one reading: what python-dotenv, Compose and `./run` would understand differently is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.platform import quartenv
from service.platform.quartenv import QuartenvError
from service.platform.settings import ROOT

READ = {
    "A=plain": "plain",
    "A=a b c": "a b c",
    "A= lead and trail  ": "lead and trail",
    "A=a#b": "a#b",
    "A=a #b": "a",
    "A='a #b'": "a #b",
    "A=a\"b'c": "a\"b'c",
    'A="a\'b"': "a'b",
    "A='a\"b'": 'a"b',
    "A=a\\b": "a\\b",
    'A="a\\\\b\\n"': "a\\b\n",
    "A='a\\nb'": "a\\nb",
    "A='a\\'b'": "a'b",
    'A="a\\"b"': 'a"b',
    'A="a\\tb\\r"': "a\tb\r",
    'A="\\\\012"': "\\012",
    "A='a$b$(id)$$'": "a$b$(id)$$",
    "A=x # costs $5 or ${HOME}": "x",
    "A='x' # see ${HOME} and \\\\": "x",
    "A=100%": "100%",
    "A=äö🧮": "äö🧮",
    "A='x' # remark": "x",
    "export A=1": "1",
    " A = 1": "1",
    "A=": "",
    'A=""': "",
    "A=`id`;!x*~(y){z}": "`id`;!x*~(y){z}",
    "A=a=b": "a=b",
    "A=\\": "\\",
    "A='two\nlines'": "two\nlines",
    "\ufeffA=1": "1",
    "A=1\r": "1",
    "# a remark\n\nA=1": "1",
    "A=1\nA=2": "2",
}
"""What a line is read as, in every way."""

REFUSED = {
    "A=a$b": "line 2: the $ in the value of A must be within single quotes",
    "A=a${b}c": "`${` in the value of A",
    'A="a$b"': "the $ in the value of A",
    'A="a\\$b"': "the $ in the value of A",
    "A='a${PATH}b'": "`${` in the value of A",
    "A='a\\\\b'": "two backslashes in the value of A",
    "A='a\\'": "it is not NAME=value, or a quote is missing",
    "A='x'y": "it is not NAME=value",
    'A="never ends': "a quote is missing",
    "A= # none": "the # in the value of A must be quoted",
    "A=x\t# y": "the # in the value of A must be quoted",
    "A=x\u00a0# y": "the # in the value of A must be quoted",
    "A=\u3000x": "space that is not ordinary",
    'A="a\\\'b"': "a backslash in the value of A",
    'A="x\\012"': "a backslash in the value of A",
    'A="x\\\\\\0"': "a backslash in the value of A",
    "A='two\r\nlines'": "a character that is no text",
    "A='x\0y'": "a character that is no text",
    "A: 1": "it is not NAME=value",
    "A": "A has no = and no value",
    "=1": "it is not NAME=value",
    "my-key=1": "'my-key' is no name of a setting",
    "1A=1": "'1A' is no name of a setting",
    "A.B=1": "'A.B' is no name of a setting",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".quartenv"


@pytest.mark.parametrize("text", READ)
def test_a_line_is_read(text: str, file: Path) -> None:
    file.write_bytes(f"{text}\nZ=last\n".encode())
    assert quartenv.read(file) == {"A": READ[text], "Z": "last"}


@pytest.mark.parametrize("text", REFUSED)
def test_a_line_that_could_be_read_otherwise_is_refused_with_its_number(text: str, file: Path) -> None:
    file.write_bytes(f"FIRST=1\n{text}\n".encode())
    with pytest.raises(QuartenvError) as refused:
        quartenv.read(file)
    assert str(file) in str(refused.value)
    assert REFUSED[text] in str(refused.value)
    assert "line 2" in str(refused.value)


@pytest.mark.parametrize("text", ["A=S3CRET$", 'A="S3CRET', "A='S3CRET\\\\'", "A='S3CRET${x}'", "A-B=S3CRET"])
def test_a_refusal_does_not_show_the_value(text: str, file: Path) -> None:
    file.write_text(f"{text}\n")
    with pytest.raises(QuartenvError) as refused:
        quartenv.read(file)
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_another_encoding_is_refused(encoding: str, file: Path) -> None:
    file.write_bytes("A=naïve\n".encode(encoding))
    with pytest.raises(QuartenvError, match=r"not in UTF-8|not NAME=value|no name of a setting"):
        quartenv.read(file)


def test_no_file_is_no_settings_and_one_that_cannot_be_opened_is_refused(file: Path) -> None:
    assert quartenv.read(file) == {}
    file.mkdir()
    with pytest.raises(QuartenvError, match="Is a directory"):
        quartenv.read(file)


def test_a_shell_reads_the_same(file: Path) -> None:
    for text, value in READ.items():
        file.write_bytes(f"{text}\n".encode())
        script = 'eval "$("$1" -P "$2" "$3")" && printf %s "$A"'
        command: list[str | Path] = [
            "bash",
            "-c",
            script,
            "-",
            sys.executable,
            ROOT / "service/platform/quartenv.py",
            file,
        ]
        assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == value, text


def test_what_belongs_to_the_shell_is_left_to_it(file: Path) -> None:
    file.write_text("UID=1000\nIFS=x\nA=1\n")
    command: list[str | Path] = [sys.executable, "-P", ROOT / "service/platform/quartenv.py", file]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "export A=1\n"


@pytest.mark.compose
def test_compose_reads_the_same(file: Path, tmp_path: Path) -> None:
    service = {"image": "none", "env_file": ".quartenv"}
    (tmp_path / "compose.yml").write_text(json.dumps({"name": "none", "services": {"one": service}}))
    for text, value in READ.items():
        file.write_bytes(f"{text}\n".encode())
        printed = subprocess.run(
            ["docker-compose", "config", "--format", "json"], cwd=tmp_path, capture_output=True, check=True
        ).stdout
        read = json.loads(printed)["services"]["one"]["environment"]["A"]
        assert read.replace("$$", "$") == value, text
