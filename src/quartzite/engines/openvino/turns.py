"""Which runs compute at the same time; knows no OpenVINO."""

import threading
from collections import deque
from typing import Protocol


class Ready(Protocol):
    """What has all that it needs to compute."""

    def begin(self) -> None:
        """Compute from now on; called once for each turn, on any thread."""


class Turns:
    """Lets as many runs compute as there are `streams`; what has waited longest begins on the thread that ends another.

    The event loop would need milliseconds for that while it is busy with requests, and a core would be idle meanwhile.
    All methods may be called on any thread.
    """

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._lock = threading.Lock()
        self._computing: set[Ready] = set()
        self._waiting: deque[Ready] = deque()

    def take(self, run: Ready) -> None:
        """Have `run` begin now, or when its turn comes; to be followed by `end`."""
        with self._lock:
            if len(self._computing) >= self._streams:
                self._waiting.append(run)
                return
            self._computing.add(run)
        run.begin()

    def withdraw(self, run: Ready) -> bool:
        """Return whether `run` was still waiting for its turn, which it then waits for no more."""
        with self._lock:
            if run not in self._waiting:
                return False
            self._waiting.remove(run)
            return True

    def end(self, run: Ready) -> None:
        """Note that `run` computes no more, which may be told several times, and have the next one begin."""
        with self._lock:
            if run not in self._computing:
                return
            self._computing.remove(run)
            if not self._waiting:
                return
            following = self._waiting.popleft()
            self._computing.add(following)
        following.begin()
