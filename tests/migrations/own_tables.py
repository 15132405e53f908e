"""Tables as people make them, with the types and server defaults that they use; tests/migrations/test_comparison.py."""

import enum
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from service.platform.database import TABLE_OPTIONS, metadata


class Colour(enum.Enum):
    """An enum of Python's."""

    red = 1
    blue = 2


author = sa.Table(
    "author",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.String(100), nullable=False, unique=True, comment="as it is printed"),
    comment="who writes",
    **TABLE_OPTIONS,
)

book = sa.Table(
    "book",
    metadata,
    sa.Column("id", mysql.BIGINT(unsigned=True), primary_key=True),
    sa.Column("author_id", sa.ForeignKey("author.id", ondelete="CASCADE"), nullable=False),
    # JSON
    sa.Column("json", sa.JSON),
    sa.Column("json_needed", mysql.JSON, nullable=False),
    sa.Column("json_default", sa.JSON, server_default=sa.text("('{}')")),
    # Booleans
    sa.Column("bool", sa.Boolean),
    sa.Column("bool_false", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("bool_true", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("bool_text", sa.Boolean, nullable=False, server_default=sa.text("0")),
    sa.Column("bool_word", sa.Boolean, nullable=False, server_default=sa.text("true")),
    sa.Column("bool_string", sa.Boolean, nullable=False, server_default="1"),
    # Times
    sa.Column("made", sa.DateTime, nullable=False, server_default=sa.func.now()),
    sa.Column("made_text", sa.DateTime, server_default=sa.text("CURRENT_TIMESTAMP")),
    sa.Column("made_function", sa.DateTime, server_default=sa.func.current_timestamp()),
    sa.Column("made_fine", mysql.DATETIME(fsp=6), server_default=sa.text("CURRENT_TIMESTAMP(6)")),
    sa.Column("made_now", mysql.DATETIME(fsp=6), server_default=sa.func.now(6)),
    sa.Column("stamp", sa.TIMESTAMP, nullable=False, server_default=sa.func.now()),
    sa.Column("changed", sa.DateTime, server_default=sa.text("CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP")),
    sa.Column("changed_fine", mysql.DATETIME(fsp=3), server_default=sa.text("NOW(3) ON UPDATE NOW(3)")),
    sa.Column("day", sa.Date, server_default="2026-01-01"),
    sa.Column("day_now", sa.Date, server_default=sa.text("(CURRENT_DATE)")),
    sa.Column("clock", sa.Time, server_default="12:00:00"),
    sa.Column("moment", sa.DateTime(timezone=True), server_default="2026-01-01 00:00:00"),
    sa.Column("span", sa.Interval),
    # Enums
    sa.Column("enum", sa.Enum("small", "large", name="size")),
    sa.Column("enum_default", sa.Enum("small", "large", name="size"), nullable=False, server_default="small"),
    sa.Column("enum_python", sa.Enum(Colour), nullable=False, server_default=Colour.red.name),
    sa.Column("enum_mysql", mysql.ENUM("a", "it's"), server_default="it's"),
    sa.Column("set", mysql.SET("a", "b"), server_default="a,b"),
    # Numbers
    sa.Column("decimal", sa.Numeric(10, 2), nullable=False, server_default="0"),
    sa.Column("decimal_zeros", sa.Numeric(10, 2), server_default="0.00"),
    sa.Column("decimal_text", sa.Numeric(12, 4), server_default=sa.text("0")),
    sa.Column("decimal_negative", sa.DECIMAL(5, 1), server_default=sa.text("-1.5")),
    sa.Column("decimal_plain", sa.Numeric),
    sa.Column("float", sa.Float, server_default="0"),
    sa.Column("float_text", sa.Float, server_default=sa.text("0.5")),
    sa.Column("double", sa.Double, server_default="1e3"),
    sa.Column("real", sa.REAL),
    sa.Column("integer", sa.Integer, server_default="0"),
    sa.Column("integer_text", sa.Integer, server_default=sa.text("-1")),
    sa.Column("integer_sum", sa.Integer, server_default=sa.text("(1 + 1)")),
    sa.Column("small", sa.SmallInteger, server_default="7"),
    sa.Column("big", sa.BigInteger, server_default=sa.text("'8'")),
    sa.Column("tiny", mysql.TINYINT(unsigned=True), server_default="0"),
    sa.Column("unsigned", mysql.INTEGER(unsigned=True)),
    sa.Column("bits", mysql.BIT(8), server_default=sa.text("b'101'")),
    sa.Column("year", mysql.YEAR, server_default="2026"),
    # Strings and bytes
    sa.Column("string", sa.String(50), nullable=False, server_default=""),
    sa.Column("string_quoted", sa.String(50), server_default='it\'s "so" 100%'),
    sa.Column("string_upper", sa.String(50), server_default="NOW"),
    sa.Column("string_null", sa.String(50), server_default=sa.text("NULL")),
    sa.Column("string_function", sa.String(36), server_default=sa.text("(uuid())")),
    sa.Column("string_expression", sa.String(50), server_default=sa.text("(concat('a', 'B'))")),
    sa.Column("unicode", sa.Unicode(50), server_default="é"),
    sa.Column("ascii", mysql.VARCHAR(63, charset="ascii", collation="ascii_bin"), server_default="x"),
    sa.Column("char", sa.CHAR(2), server_default="de"),
    sa.Column("text", sa.Text),
    sa.Column("text_default", sa.Text, server_default=sa.text("('none')")),
    sa.Column("text_long", mysql.LONGTEXT),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("binary", sa.BINARY(16)),
    sa.Column("varbinary", sa.VARBINARY(16), server_default=""),
    sa.Column("uuid", sa.Uuid, default=uuid.uuid4),
    sa.Column("uuid_needed", sa.Uuid, nullable=False),
    sa.Column("pickle", sa.PickleType),
    # Columns that are computed, keys and checks
    sa.Column("total", sa.Numeric(10, 2), sa.Computed("`decimal` * 2")),
    sa.Column("total_kept", sa.Numeric(10, 2), sa.Computed("`decimal` * 2", persisted=True)),
    sa.Column("unique", sa.String(50), unique=True),
    sa.Column("indexed", sa.String(50), index=True),
    sa.CheckConstraint("`decimal` >= 0", name="decimal_positive"),
    sa.UniqueConstraint("author_id", "string"),
    sa.Index("ix_book_made_day", "made", "day"),
    sa.Index("ix_book_prefix", "text", mysql_length=20),
    **TABLE_OPTIONS,
)
