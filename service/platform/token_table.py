"""The table of tokens, and the statements of `quart tokens` and of the workers. Times are the database's, in UTC.

A row stays when its token is revoked: the name, which logs and keys have, never means another token.
"""

from sqlalchemy import Column, Index, Table, and_, bindparam, case, func, insert, or_, select, text, update
from sqlalchemy.dialects.mysql import BINARY, DATE, DATETIME, INTEGER, VARCHAR

from service.platform.database import TABLE_OPTIONS, metadata

LONGEST_SCOPES = 255
"""Characters of a token's scopes, with the commas between."""

_NOW = text("UTC_TIMESTAMP(6)")
_TODAY = text("UTC_DATE()")


def _ascii(length: int) -> VARCHAR:
    return VARCHAR(length, charset="ascii", collation="ascii_bin")


api_token = Table(
    "api_token",
    metadata,
    Column("id", INTEGER(unsigned=True), primary_key=True),
    Column("name", _ascii(63), nullable=False),
    Column("hash", BINARY(32), nullable=False),
    Column("scopes", _ascii(LONGEST_SCOPES), nullable=False),
    Column("created_at", DATETIME(fsp=6), nullable=False),
    Column("expires_at", DATETIME(), nullable=True),
    Column("revoked_at", DATETIME(fsp=6), nullable=True),
    Column("last_used_on", DATE(), nullable=True),
    Index("uq_api_token_name", "name", unique=True),
    Index("uq_api_token_hash", "hash", unique=True),
    **TABLE_OPTIONS,
)
"""A row holds the SHA-256 of a token. `scopes` has commas between; at `expires_at` it is no longer valid."""

_IS_VALID = and_(api_token.c.revoked_at.is_(None), or_(api_token.c.expires_at.is_(None), api_token.c.expires_at > _NOW))
_STATE = case((api_token.c.revoked_at.is_not(None), "revoked"), (_IS_VALID, "valid"), else_="expired")

VALID = select(
    api_token.c.id,
    api_token.c.name,
    api_token.c.hash,
    api_token.c.scopes,
    # What is left, rather than the end: a worker's clock need not be the database's.
    func.timestampdiff(text("MICROSECOND"), _NOW, api_token.c.expires_at).label("microseconds_left"),
    func.coalesce(api_token.c.last_used_on >= _TODAY, text("0")).label("used_today"),
).where(_IS_VALID)

HOW_MANY_VALID = select(func.count()).select_from(api_token).where(_IS_VALID)

MAKE = insert(api_token).values(created_at=_NOW)

REVOKE = (
    update(api_token)
    .where(api_token.c.name == bindparam("of"), api_token.c.revoked_at.is_(None))
    .values(revoked_at=_NOW)
)

NAMED = select(api_token.c.id).where(api_token.c.name == bindparam("of"))

ALL = select(api_token, _STATE.label("state"))

USED = (
    update(api_token)
    .where(
        api_token.c.id.in_(bindparam("ids", expanding=True)),
        or_(api_token.c.last_used_on.is_(None), api_token.c.last_used_on < _TODAY),
    )
    .values(last_used_on=_TODAY)
)

TRY = update(api_token).where(api_token.c.id == text("0")).values(last_used_on=_TODAY)
"""What readiness tries. No row has the id 0."""
