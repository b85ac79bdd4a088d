"""What limits leave, as the headers that OpenAI's clients read. Knows nothing of how it is counted."""

import math
from collections.abc import Iterator, Mapping

from quartzite.domain import Allowance

LIMIT_HEADERS = tuple(
    f"x-ratelimit-{name}-{unit}" for unit in ("requests", "tokens") for name in ("limit", "remaining", "reset")
)


def limit_headers(allowances: Mapping[str, Allowance]) -> Iterator[tuple[bytes, bytes]]:
    """Yield `x-ratelimit-limit-requests` and its kin for every unit, `requests` or `tokens`, that has a limit."""
    for unit, left in allowances.items():
        said = {"limit": str(left.limit), "remaining": str(left.remaining), "reset": _duration(left.reset_s)}
        for name, value in said.items():
            yield f"x-ratelimit-{name}-{unit}".encode("ascii"), value.encode("ascii")


def _duration(seconds: float) -> str:
    """Return whole seconds, rounded up, the way OpenAI writes them: `42s`, `6m0s`, `23h59m59s`."""
    minutes, rest_s = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"
