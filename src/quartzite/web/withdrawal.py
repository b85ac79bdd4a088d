"""That a model will be withdrawn, as headers: Deprecation (RFC 9745), Sunset (RFC 8594), and a Link about it."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from email.utils import format_datetime

from quartzite.domain import Withdrawal


def withdrawal_headers(told: Withdrawal) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers for what is known; a day stands for its first moment in UTC."""
    relations = []
    if told.deprecated is not None:
        relations.append("deprecation")
        yield b"deprecation", f"@{int(_midnight(told.deprecated).timestamp())}".encode("ascii")
    if told.sunset is not None:
        relations.append("sunset")
        yield b"sunset", format_datetime(_midnight(told.sunset), usegmt=True).encode("ascii")
    if told.link is not None:
        yield b"link", f'<{told.link}>; rel="{" ".join(relations)}"'.encode("ascii")


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
