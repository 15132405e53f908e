"""Makes the random secrets of one installation, once, and the SQL that tells the database about them.

Needs nothing but Python. Each secret is a file of its own; with `--readers NAME=GID` a file belongs to that group and
only it may read, so that a container gets what its group may read although all see the same volume.
`users.sql` is the database server's init-file: it is run at every start, so the passwords in the database are always
those of these files. A secret that was edited or put back by hand is written anew without the space around it, since
not all that read it leave that out.
"""

import argparse
import os
import secrets
from pathlib import Path
from string import Template

NAMES = (
    *("secret_key", "secret_key_former"),
    *("db_password", "migration_db_password", "backup_db_password", "mysql_root_password"),
)
ADDED = {"secret_key_former", "backup_db_password"}
"""Secrets that installations of earlier versions lack: made at the next start, when the database takes them over."""

USERS_SQL = Path(__file__).parent / "database" / "users.sql"


def make_secrets(directory: Path, data: Path | None, readers: dict[str, int], *, renew: bool) -> None:
    """Writes missing secrets (all, with `renew`) into `directory`. Raises SystemExit with a sentence if it must not.

    `data` is the database server's data directory: secrets that are missing beside data are lost ones, and new ones
    are made only with `renew`.
    """
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    initialised = data is not None and (data / "mysql").is_dir()
    missing = [name for name in NAMES if not (directory / name).exists()]
    lost = [name for name in missing if name not in ADDED]
    if lost and initialised and not renew:
        raise SystemExit(
            f"The database has data but its secrets are gone ({', '.join(lost)}): put back a copy of them, or make "
            "new ones, which the database takes over at its next start, by running this once with --renew: `./run "
            "secrets --renew` or `docker-compose -f docker-compose.prod.yml run --rm --no-deps secrets --renew`."
        )
    for name in NAMES if renew else missing:
        _write(directory / name, secrets.token_hex(32), readers.get(name))
    for name in NAMES:
        text = read(directory / name)
        if (directory / name).read_bytes() != text.encode() or not _has_reader(directory / name, readers.get(name)):
            _write(directory / name, text, readers.get(name))
    made = ", ".join(NAMES if renew else missing) or "none, all are there"
    print(f"secrets made: {made}")
    _write(directory / "users.sql", _users_sql(directory, initialised=initialised), readers.get("users.sql"))


NEXT = "db_password.next"
"""The service's next password, while the database takes it beside the present one."""


def prepare_rotation(directory: Path, readers: dict[str, int]) -> None:
    """Makes the service's next password, unless it is there."""
    if not (directory / NEXT).exists():
        _write(directory / NEXT, secrets.token_hex(32), readers.get("db_password"))


def rotate(directory: Path, readers: dict[str, int]) -> None:
    """Puts new secrets in the place of all but root's, once: after `prepare_rotation`, whose password the service has.

    The database takes them from users.sql. Cookies of the former key are still believed.
    """
    if not (directory / NEXT).exists():
        return
    _write(directory / "secret_key_former", read(directory / "secret_key"), readers.get("secret_key_former"))
    for name in "secret_key", "migration_db_password", "backup_db_password":
        _write(directory / name, secrets.token_hex(32), readers.get(name))
    _write(directory / "db_password", read(directory / NEXT), readers.get("db_password"))
    _write(directory / "users.sql", _users_sql(directory, initialised=True), readers.get("users.sql"))
    (directory / NEXT).unlink()


def read(path: Path) -> str:
    """Returns a secret. Raises SystemExit if the file is unreadable, empty, not UTF-8, or has control characters."""
    try:
        text = path.read_bytes().decode("utf-8-sig").strip()
    except OSError as error:
        raise SystemExit(
            f"{path}: {error.strerror}. It must belong to the user with the number {os.getuid()}."
        ) from None
    except UnicodeDecodeError:
        raise SystemExit(f"{path} is not in UTF-8: save it in that encoding.") from None
    if not text or not text.isprintable():
        raise SystemExit(f"{path} is empty or has characters that cannot be printed: correct it, or delete it.")
    return text


def _users_sql(directory: Path, *, initialised: bool) -> str:
    """Returns users.sql, one statement a line. While a new database is made, root is its image's business."""
    name = os.environ.get("DATABASE_NAME", "tally")
    sql = Template(USERS_SQL.read_text()).substitute(
        database=name.replace("`", "``"),
        database_pattern=_pattern(name),
        service_username=_sql_text(os.environ.get("DB_USERNAME", "tally")),
        service_password=_sql_text(read(directory / "db_password")),
        migration_username=_sql_text(os.environ.get("MIGRATION_DB_USERNAME", "tally_migration")),
        migration_password=_sql_text(read(directory / "migration_db_password")),
        backup_username=_sql_text(os.environ.get("BACKUP_DB_USERNAME", "tally_backup")),
        backup_password=_sql_text(read(directory / "backup_db_password")),
    )
    if initialised:
        root_password = _sql_text(read(directory / "mysql_root_password"))
        # MySQL's image makes root@localhost and one more, at MYSQL_ROOT_HOST.
        for host in "localhost", "127.0.0.1", "%":
            sql += f"ALTER USER IF EXISTS 'root'@'{host}' IDENTIFIED BY '{root_password}';\n"
    return f"SET NAMES utf8mb4;\n{sql}"


def _sql_text(text: str) -> str:
    """Returns the text as it stands between single quotes in SQL."""
    return text.replace("\\", "\\\\").replace("'", "''")


def _pattern(name: str) -> str:
    """Returns the database's name as GRANT takes it, in which _ and % stand for others."""
    return name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%").replace("`", "``")


def _has_reader(path: Path, group: int | None) -> bool:
    found = path.stat()
    return group is None or (found.st_gid == group and found.st_mode & 0o777 == 0o440)


def _write(path: Path, text: str, group: int | None) -> None:
    """Replaces the file at once, so that a stop in the middle leaves the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    if group is not None:
        os.chown(new, -1, group)
        new.chmod(0o440)
    new.rename(path)


def _reader(text: str) -> tuple[str, int]:
    name, _, group = text.partition("=")
    return name, int(group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where the secrets are kept")
    parser.add_argument("--data", type=Path, help="the database server's data directory")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--renew", action="store_true", help="make all secrets anew")
    how.add_argument("--prepare-rotation", action="store_true", help="make the service's next password")
    how.add_argument("--rotate", action="store_true", help="have all but root's followed by new ones")
    parser.add_argument("--readers", type=_reader, nargs="*", default=[], metavar="NAME=GID")
    arguments = parser.parse_args()
    readers = dict(arguments.readers)
    if arguments.prepare_rotation:
        prepare_rotation(arguments.directory, readers)
    elif arguments.rotate:
        rotate(arguments.directory, readers)
    else:
        make_secrets(arguments.directory, arguments.data, readers, renew=arguments.renew)


if __name__ == "__main__":
    main()
