"""Files damaged at random: whatever a decoder is given, it gives a picture or a refusal, in bounded time and memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quartzite.preprocess.decode import FORMATS

TESTS = Path(__file__).parents[1]
CASES = 1_000


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_pictures_or_refusals(kind: str) -> None:
    """A thousand of each format, none of which crashes the decoder, holds it up or fills the memory."""
    command = [sys.executable, TESTS / "mutated_pictures.py", kind, str(CASES), "1"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, (ran.stdout.splitlines()[-1:], ran.stderr)
    counts = json.loads(ran.stdout.splitlines()[-1])
    assert counts["taken"] + counts["refused"] == CASES
    assert counts["taken"] > CASES / 50
    assert counts["refused"] > CASES / 50
    assert counts["slowest_s"] < 2
    assert counts["most_bytes"] < 300_000_000
