"""What deploy/certificate.py stores, refuses and says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.certificates import Authority
from service.platform.settings import ROOT


def certificate(directory: Path, *files: Path, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """Runs it with the files on its standard input."""
    given = "\n".join(file.read_text() for file in files)
    command = [sys.executable, str(ROOT / "deploy/certificate.py"), str(directory), *options]
    return subprocess.run(command, input=given, capture_output=True, text=True)


def store(directory: Path, *files: Path) -> None:
    """Stores a good one."""
    ended = certificate(directory, *files)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def folder(authority: Authority, tmp_path: Path) -> Path:
    """Where a good one is stored."""
    store(tmp_path / "certificates", *authority.make("good", days=40))
    return tmp_path / "certificates"


def is_refused(folder: Path, *files: Path) -> str:
    """Returns the sentence with which the files are refused; what is stored must stay as it was."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ended = certificate(folder, *files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert ended.stderr.endswith(". Nothing was changed.\n")
    return ended.stderr


def test_a_chain_and_its_key_are_stored_in_one_file_for_nginx_alone_and_it_says_what_they_are(tmp_path: Path) -> None:
    root = Authority(tmp_path, "root")
    below = Authority(tmp_path, "below", root)
    own, key = below.make("own", "a.example", days=90)
    ended = certificate(tmp_path / "certificates", own, below.certificate, key)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = r"The certificate for a.example, by below, ends \d{4}-\d\d-\d\d \d\d:\d\d UTC \(89 days\).\n"
    assert re.fullmatch(said, ended.stdout)
    stored = tmp_path / "certificates/certificate.pem"
    assert stored.read_text() == "\n".join(file.read_text() for file in (own, below.certificate, key))
    assert (stored.stat().st_mode & 0o777, stored.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(stored.parent.iterdir()) == [stored]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who can give files away")
def test_what_root_stores_belongs_to_whom_the_folder_belongs_to(authority: Authority, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    store(own / "certificates", *authority.make("one"))
    stored = own / "certificates/certificate.pem"
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (stored.parent, stored)] == [(65534, 65534)] * 2


def test_one_without_an_intermediate_is_stored_and_who_takes_it_is_said(folder: Path, authority: Authority) -> None:
    said = certificate(folder, *authority.make("second")).stdout
    assert said.endswith("No intermediate certificate is with it: only clients that know authority take it.\n")


def test_one_that_has_expired_is_refused(folder: Path, authority: Authority) -> None:
    assert "The certificate of localhost has expired, on 2" in is_refused(folder, *authority.make("bad", days=-1))


def test_one_that_is_not_yet_valid_is_refused(folder: Path, authority: Authority) -> None:
    assert "of localhost is not valid before 2" in is_refused(folder, *authority.make("bad", days=9, begins=2))


def test_a_key_of_another_is_refused(folder: Path, authority: Authority) -> None:
    own, _ = authority.make("one")
    _, key = authority.make("other")
    said = is_refused(folder, own, key)
    assert said.startswith("The key does not belong to the certificate of localhost. ")


def test_a_chain_in_another_order_is_refused(folder: Path, tmp_path: Path) -> None:
    root = Authority(tmp_path, "root")
    below = Authority(tmp_path, "below", root)
    own, key = below.make("own")
    said = is_refused(folder, below.certificate, own, key)
    assert "The key does not belong to the certificate of below: localhost, to which it does, must be the first" in said
    said = is_refused(folder, own, root.certificate, key)
    assert "The chain is not in order: root did not issue the one before it, localhost" in said


def test_what_lacks_one_of_the_two_is_refused(folder: Path, authority: Authority, tmp_path: Path) -> None:
    own, key = authority.make("one")
    (tmp_path / "none").write_text("no PEM")
    assert "There is no certificate in PEM" in is_refused(folder, tmp_path / "none", key)
    assert "One private key in PEM is needed, and 0 were given" in is_refused(folder, own, tmp_path / "none")
    assert "and 2 were given" in is_refused(folder, own, key, authority.make("other")[1])
    (tmp_path / "damaged").write_text(key.read_text().replace("M", "N", 1))
    assert "The key cannot be read" in is_refused(folder, own, tmp_path / "damaged")


def test_a_key_with_a_passphrase_is_refused(folder: Path, authority: Authority, tmp_path: Path) -> None:
    own, key = authority.make("one")
    read = serialization.load_pem_private_key(key.read_bytes(), None)
    form, secret = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked").write_bytes(read.private_bytes(serialization.Encoding.PEM, form, secret))
    assert "The key is encrypted" in is_refused(folder, own, tmp_path / "locked")


def test_what_openssl_would_refuse_is_refused_before_nginx_does(
    folder: Path, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    monkeypatch.setattr("harness.certificates.ec.generate_private_key", lambda curve: weak)
    assert "OpenSSL refuses it (EE_KEY_TOO_SMALL)" in is_refused(folder, *authority.make("weak"))


@pytest.mark.parametrize(("days", "code"), [(15, 0), (13, 1), (-1, 1)])
def test_its_end_is_shown_and_fails_when_it_is_near(days: int, code: int, folder: Path, authority: Authority) -> None:
    own, key = authority.make("near", days=days)
    (folder / "certificate.pem").write_text(own.read_text() + key.read_text())
    shown = certificate(folder, options=("--show",))
    assert shown.returncode == code
    assert shown.stdout.startswith("The certificate for localhost, by authority, ends 2")
    assert shown.stderr == code * "It ends in less than 14 days, or has ended: renew it.\n"


def test_where_there_is_none_it_says_so(tmp_path: Path) -> None:
    shown = certificate(tmp_path, options=("--show",))
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, "", "There is no certificate.\n")


def test_a_self_signed_one_is_made_for_trying_it_out_but_not_in_the_place_of_a_better(
    folder: Path, authority: Authority, tmp_path: Path
) -> None:
    made = certificate(tmp_path / "new", options=("--self-signed",))
    assert made.stdout.startswith("The certificate for localhost, 127.0.0.1, ::1, by itself, ends 2")
    again = certificate(tmp_path / "new", options=("--self-signed", "a.example", "192.0.2.1"))
    assert again.stdout.startswith("The certificate for a.example, 192.0.2.1, by itself, ends 2")
    refused = certificate(folder, options=("--self-signed",))
    assert refused.returncode == 1
    assert refused.stderr.startswith("A self-signed certificate is for trying it out, and there is one for localhost")


def test_a_folder_that_cannot_be_written_is_named(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = certificate(tmp_path / "file/folder", *authority.make("one"))
    assert ended.returncode == 1
    assert ended.stderr == f"{tmp_path}/file/folder: Not a directory. Nothing was changed.\n"
