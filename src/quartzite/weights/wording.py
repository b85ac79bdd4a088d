"""How faults of weight files are worded: names quoted and clipped, long lists cut; knows nothing of formats."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quartzite.errors import WeightsRefused

LONGEST_SHOWN = 100
MOST_LISTED = 5


def clipped(text: str) -> str:
    """Return `text`, cut to what fits into a message."""
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def shown(value: str | int | tuple[int, ...]) -> str:
    """Return `value`, which comes from a file and may be anything, in quotes if it is a string, and clipped."""
    return repr(clipped(value)) if isinstance(value, str) else clipped(str(value))


def listed(phrases: Sequence[str]) -> str:
    """Return the first few of `phrases` in one line, and how many more there are."""
    more = len(phrases) - MOST_LISTED
    return ", ".join(phrases[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` in front of the message of any WeightsRefused raised inside."""
    try:
        yield
    except WeightsRefused as refusal:
        raise WeightsRefused(f"{path}: {refusal}") from refusal
