"""How fast an engine works off what waits for it. Pure: moments are given, nothing is asked."""

REMEMBERED = 0.98
"""What each micro-batch leaves of the weight of those before it: about the last fifty count."""


class Pace:
    """The tokens a second that come out of an engine while work waits for it, all streams together."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self._since: float | None = None

    @property
    def tokens_per_s(self) -> float:
        """What was measured lately; infinite before anything was."""
        return self._tokens / self._seconds if self._seconds > 0 else float("inf")

    def came_out(self, tokens: int, now: float, more_waits: bool) -> None:
        """Note a micro-batch of `tokens` that came out at the moment `now`, in seconds, and whether more waits."""
        if self._since is not None:
            self._tokens = REMEMBERED * self._tokens + tokens
            self._seconds = REMEMBERED * self._seconds + (now - self._since)
        self._since = now if more_waits else None
