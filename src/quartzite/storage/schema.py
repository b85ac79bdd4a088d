"""The tables, as the newest migration leaves them; a test holds the two together. Knows nothing of what fills them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
)

HEAD = "0001"
"""The newest revision in `migrations/versions`: a database that has it is opened without importing Alembic."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Moment(TypeDecorator[datetime]):
    """A point in time: milliseconds since 1970 in the database, an aware datetime in UTC here."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Return the milliseconds of `value`."""
        return None if value is None else unix_ms(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the datetime of `value` milliseconds."""
        return None if value is None else _EPOCH + int(value) * _MILLISECOND


def unix_ms(moment: datetime) -> int:
    """Return the whole milliseconds from 1970 to `moment`, which must know its time zone."""
    return (moment - _EPOCH) // _MILLISECOND


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("level", Integer, CheckConstraint("level BETWEEN 0 AND 5", name="level"), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("monthly_tokens", BigInteger),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("shown", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("created", Moment, nullable=False),
    Column("expires", Moment),
    Column("last_used", Moment),
    Column("revoked", Moment),
)

# No foreign keys: a row outlives what it tells of, and is written without a look at other tables.
requests = Table(
    "requests",
    metadata,
    Column("trace_id", String, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("account_id", Integer),
    Column("key_id", Integer),
    Column("model", String),
    Column("user", String),
    Column("items", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("images", Integer, nullable=False),
    Column("status", Integer, nullable=False),
    Column("code", Integer),
    Column("queue_ms", Float, nullable=False),
    Column("engine_ms", Float, nullable=False),
    Column("total_ms", Float, nullable=False),
    Column("client", String),
    Index(None, "at"),
    Index(None, "account_id", "at", "tokens"),  # holds all that the allowance of a month asks for
)
