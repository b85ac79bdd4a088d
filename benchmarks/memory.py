"""What a process holds that no file backs: anonymous pages, which cannot be given up as those of mapped weights can."""

import threading
import time
from pathlib import Path


class Memory:
    """Watches the anonymous memory of this process on a thread; `peak_bytes` is the most since it was last set."""

    def __init__(self, every_s: float = 0.02) -> None:
        self.peak_bytes = 0
        self._every_s = every_s
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes())
            time.sleep(self._every_s)


def anonymous_bytes() -> int:
    """Return this process's resident memory that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
