"""The golden cases of models that see: tiny models, and items of text and pictures that are drawn anew from recipes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthetic.blueprint import Blueprint, scaled
from synthetic.golden import BYTE_LEVEL_VOCABULARY, GOLDEN
from synthetic.known import KNOWN

MARKS = 8
"""Ids beyond the tokenizer's, so that those of pictures are none of its own."""
SIZES = {
    "layers": 4,
    "hidden": 64,
    "heads": 4,
    "key_value_heads": 2,
    "head_size": 32,
    "intermediate": 160,
    "vocabulary": BYTE_LEVEL_VOCABULARY + MARKS,
    "positions": 4096,
    "vision_layers": 4,
    "vision_hidden": 64,
    "vision_heads": 2,
    "vision_intermediate": 96,
}
CASES: Mapping[str, Blueprint] = {
    "qwen3-vl": replace(scaled(KNOWN["Qwen/Qwen3-VL-Embedding-2B"], SIZES), dtype="f32", seed=11),
    # Heads of 36 values, the table of another side, and names without a prefix, in several files.
    "qwen3-vl-sharded": replace(
        scaled(KNOWN["Qwen/Qwen3-VL-Embedding-8B"], SIZES | {"layers": 3, "vision_hidden": 72, "vision_positions": 81}),
        prefix="",
        shard_bytes=300_000,
        seed=12,
    ),
}

# Height and width of pictures as they come to the network: what is made of 1 x 1, 31 x 33, 1 x 190, 1 x 2 and 640 x 480
# pixels and of a photograph of 4000 x 3000.
GRIDS = [(64, 64), (64, 96), (32, 384), (96, 64), (480, 640), (1536, 1152)]


@dataclass(frozen=True, slots=True)
class GoldenItem:
    """One item: `ids`, and of its picture (0, 0 for none) the height and width in pixels, the seed and the place."""

    ids: tuple[int, ...]
    height: int = 0
    width: int = 0
    seed: int = 0
    picture_at: int = 0

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """The picture, uint8 (height, width, 3)."""
        return draw(self.height, self.width, self.seed) if self.height else None


def draw(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Return a picture uint8 (height, width, 3) of coloured slopes under noise, the same on every machine."""
    size = height * width * 3
    noise = np.random.PCG64(seed).random_raw(-(-size // 8)).astype("<u8", copy=False).view(np.uint8)[:size]
    rows, columns, channels = np.ogrid[:height, :width, :3]
    slopes = rows * (seed % 5 + channels) // 4 + columns * (seed % 3 + 2 - channels) // 3
    return (slopes % 128).astype(np.uint8) + noise.reshape(height, width, 3) // 2


def golden_items(blueprint: Blueprint) -> list[GoldenItem]:
    """Return the items of a case: texts, each picture alone, and each with a text after it."""
    words = iter(np.random.PCG64(5).random_raw(10_000) % np.uint64(BYTE_LEVEL_VOCABULARY - 10))
    marks = {name: blueprint.config[f"{name}_token_id"] for name in ("vision_start", "image", "vision_end")}

    def text(count: int) -> list[int]:
        return [int(next(words)) for _ in range(count)]

    frame, end = text(14), text(6)
    items = [GoldenItem((*frame, *text(count), *end)) for count in (1, 4, 30, 200, 700)]
    for seed, (height, width) in enumerate(GRIDS):
        pads = [marks["image"]] * (height * width // 1024)
        shown = [*frame, marks["vision_start"], *pads, marks["vision_end"]]
        items.append(GoldenItem((*shown, *end), height, width, seed, len(frame) + 1))
        items.append(GoldenItem((*shown, *text(5 + 40 * seed), *end), height, width, seed + 10, len(frame) + 1))
    return items


def golden_file(name: str) -> Path:
    """Return where the vectors of a case are stored."""
    return GOLDEN / f"{name}.npz"


@dataclass(frozen=True, slots=True, eq=False)
class SeenVectors:
    """What a reference run gave for N items: `vectors` float32 (N, D), and the weights and items that gave them.

    `patches_sha256` are of the float32 (patches, 768) that its image processor made of each picture, "" for none.
    """

    vectors: NDArray[np.float32]
    weights_sha256: str
    items_sha256: str
    patches_sha256: list[str]


def save(file: Path, golden: SeenVectors) -> None:
    """Store the vectors; the bytes are the same for the same content."""
    np.savez_compressed(
        file,
        vectors=golden.vectors,
        weights_sha256=np.array(golden.weights_sha256),
        items_sha256=np.array(golden.items_sha256),
        patches_sha256=np.array(golden.patches_sha256),
    )


def load(file: Path) -> SeenVectors:
    """Read what `save` stored."""
    with np.load(file, allow_pickle=False) as stored:
        weights, items = str(stored["weights_sha256"]), str(stored["items_sha256"])
        return SeenVectors(stored["vectors"], weights, items, stored["patches_sha256"].tolist())


def items_sha256(items: Sequence[GoldenItem]) -> str:
    """Return the SHA-256 of all ids, places and pixels."""
    digest = sha256()
    for item in items:
        digest.update(f"{item}\n".encode())
        digest.update(b"" if item.pixels is None else item.pixels.tobytes())
    return digest.hexdigest()
