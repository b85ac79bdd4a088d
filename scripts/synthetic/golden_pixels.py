"""Pictures of many sizes and modes, drawn anew from recipes, and what a reference image processor makes of them."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthetic.golden import GOLDEN
from synthetic.golden_pictures import draw

MIN_PIXELS, MAX_PIXELS = 4_096, 1_843_200
FILE = GOLDEN / "pixels.json"

# Height and width as they come. Thin ones that are long enough are not among them: the model's script, which counts,
# takes one block for a side of less than half a block, and the processor none, which it then enlarges.
SIZES = [
    (1, 1),
    (31, 33),
    (33, 31),
    (48, 16),
    (17, 3000),
    (100, 150),
    (336, 336),
    (480, 640),
    (1080, 1920),
    (4000, 3000),
]
REFUSED = [(1, 400), (400, 1), (5, 1001)]
MODES = ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A picture as it is stored in a file, and as the model's script is to see it: RGB, RGBA or what it converts."""

    stored: Image.Image
    seen: Image.Image

    @property
    def file(self) -> bytes:
        """A file of the picture that loses nothing."""
        buffer = io.BytesIO()
        self.stored.save(buffer, "TIFF" if self.stored.mode in ("CMYK", "YCbCr") else "PNG", compress_level=1)
        return buffer.getvalue()


def cases() -> Mapping[str, tuple[int, int, str]]:
    """Return height, width and mode of every case by name."""
    sizes = {f"{height}x{width}": (height, width, "RGB") for height, width in [*SIZES, *REFUSED]}
    return sizes | {f"100x150 {mode}": (100, 150, mode) for mode in MODES}


def case(height: int, width: int, mode: str) -> Case:
    """Draw one case."""
    colours = draw(height, width, seed=height + width)
    image = Image.fromarray(colours)
    grey, alpha = colours[..., 0], Image.fromarray(np.ascontiguousarray(colours[..., 2]))
    match mode:
        case "RGB":
            return Case(image, image)
        case "I;16":  # grey of 8 bits, spread over 16
            return Case(Image.fromarray(grey.astype(np.uint16) * np.uint16(257)), Image.fromarray(grey.copy()))
        case "LA" | "RGBA":
            image.putalpha(alpha)
            grey_twice = Image.merge("LA", [Image.fromarray(grey.copy()), alpha])
            return Case(image, image) if mode == "RGBA" else Case(grey_twice, _in_colours(grey_twice))
        case "P":
            return Case(_palette(grey), _palette(grey))
        case _:
            return Case(image.convert(mode), image.convert(mode))


def _in_colours(grey: Image.Image) -> Image.Image:
    """Return grey with alpha as colours with alpha: of grey alone the script would forget the alpha."""
    light, alpha = grey.split()
    return Image.merge("RGBA", [light, light, light, alpha])


def _palette(values: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(values.copy(), "L").convert("P")
    image.putpalette(draw(1, 256, seed=256).tobytes())
    return image


def digest(patches: NDArray[np.float32]) -> str:
    """Return the SHA-256 of patches float32 (n, 768)."""
    return sha256(np.ascontiguousarray(patches, dtype="<f4").tobytes()).hexdigest()


def load() -> dict[str, list[object] | None]:
    """Return rows and columns of patches and their digest by case, None for what the reference refuses."""
    stored: dict[str, list[object] | None] = json.loads(FILE.read_text(encoding="utf-8"))
    return stored
