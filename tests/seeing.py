"""A model that takes images, in small: its card and its tokenizer, pictures to send, and files of them."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quartzite.domain import Picture
from quartzite.registry.card import ModelCard, Qwen3Shape, Qwen3VlShape, VisionShape

CHAT = Path(__file__).parent / "fixtures" / "tokenizers" / "chat.json"
VOCABULARY = 1214
IMAGE_TOKEN = 1212
END = 1200


def seeing_card(name: str = "tests/seeing", dimensions: int = 8, max_tokens: int = 512) -> ModelCard:
    """The card of a model with images and `CHAT` as its tokenizer."""
    text = Qwen3Shape(1, dimensions, 1, 1, dimensions, 1, VOCABULARY, max_tokens, 1e-6, 5e6)
    vision = VisionShape(1, 8, 1, 8, 4, ())
    shape = Qwen3VlShape(text, vision, (2, 1, 1), IMAGE_TOKEN)
    return ModelCard(name, Path("no-folder"), shape, "last", max_tokens, range(2, dimensions + 1))


def picture(rows: int, columns: int) -> Picture:
    """A black picture of `rows` by `columns` image tokens."""
    return Picture(np.zeros((32 * rows, 32 * columns, 3), np.uint8))


def drawn(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured slopes with some noise, uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).integers(0, 64, (height, width, 3), dtype=np.uint8)
    rows, columns, channels = np.ogrid[:height, :width, :3]
    return ((rows * (channels + 1) + columns * (3 - channels)) % 192).astype(np.uint8) + noise


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file of `image`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG file of a drawn picture."""
    return file_of(Image.fromarray(drawn(width, height, seed)))


def data_uri(file: bytes, kind: str = "png") -> str:
    """A data URI that holds `file`."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
