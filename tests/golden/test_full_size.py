"""Models at their true size: they load, answer, and keep to their memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from synthetic.folder import make_folder
from synthetic.known import KNOWN

GIB = 2**30

PROBE = """
import asyncio, json, sys
from pathlib import Path
import numpy as np
from quartzite.config import EngineSettings
from quartzite.domain import Encoded, Picture
from quartzite.engines.openvino.engine import load
from quartzite.registry.folder import read_card

folder, precision, tokens, cache = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
card = read_card("full", folder, None)
engine = load(card, EngineSettings(precision=precision), cache)
generator = np.random.default_rng(0)
asyncio.run(engine.warmed())
items = [Encoded(generator.integers(5, card.shape.vocabulary, tokens).astype(np.int32))]
if card.takes_images:
    picture = Picture(generator.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    items.append(Encoded(np.full(picture.tokens + 22, card.shape.image_token, dtype=np.int32), picture, 15))
vectors = np.concatenate([asyncio.run(engine.embed([item])) for item in items])
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(json.dumps({"finite": bool(np.isfinite(vectors).all()), "shape": vectors.shape, "held": held * 1024}))
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("like", "precision", "tokens", "most"),
    [
        ("BAAI/bge-large-zh-v1.5", "bf16", 512, 3 * GIB),
        ("BAAI/bge-large-en-v1.5", "bf16", 512, 3 * GIB),
        ("netease-youdao/bce-embedding-base_v1", "bf16", 512, 1 * GIB),
        ("BAAI/bge-m3", "bf16", 8192, 4 * GIB),
        ("Qwen/Qwen3-Embedding-0.6B", "bf16", 2048, 3 * GIB),
        ("Qwen/Qwen3-Embedding-4B", "bf16", 512, 10 * GIB),
        ("Qwen/Qwen3-Embedding-8B", "bf16", 512, 24 * GIB),
        ("Qwen/Qwen3-Embedding-8B", "int8", 512, 12 * GIB),
        ("Qwen/Qwen3-VL-Embedding-2B", "bf16", 512, 6 * GIB),
        ("Qwen/Qwen3-VL-Embedding-8B", "bf16", 512, 24 * GIB),
        ("Qwen/Qwen3-VL-Embedding-8B", "int8", 512, 14 * GIB),
    ],
)
def test_a_full_size_model_answers_within_its_memory(
    like: str, precision: str, tokens: int, most: int, tmp_path: Path
) -> None:
    """Memory that cannot be given up stays within the bound; the mapped files' pages can be.

    Models that take images answer one of 640 x 480 pixels too.
    """
    make_folder(tmp_path / "model", KNOWN[like])
    command = [sys.executable, "-c", PROBE, tmp_path / "model", precision, str(tokens), tmp_path / "cache"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["finite"]
    assert found["held"] <= most
    print(f"{like} {precision}: {found['held'] / GIB:.1f} GiB held, {tokens} tokens")  # noqa: T201
