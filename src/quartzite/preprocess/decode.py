"""Makes the pixels that a model takes out of the file of a picture; runs in `decoder.py`, a process of its own.

The recipe is that of Qwen3-VL-Embedding's own script (qwen_vl_utils 0.0.14): RGB, transparent parts on white, no turn
by EXIF, sides rounded to multiples of 32 within bounds on their product, Pillow's bicubic filter.
"""

import math
import warnings
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from quartzite.preprocess.sources import BadPicture, file_in

SIDE = 32
"""Sides are multiples of this many pixels: two patches, which become one image token."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
IN_WORDS = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_STEEPEST = 200

# Pillow's own bound is a constant of the library; the one of the settings is checked below, before any pixel is read.
Image.MAX_IMAGE_PIXELS = None


class Bounds(NamedTuple):
    """What a picture may be, as it comes (`max_bytes`, `max_source_pixels`) and for the model."""

    max_bytes: int
    max_source_pixels: int
    min_pixels: int
    max_pixels: int
    turn_by_exif: bool


def decode(source: bytes | str, bounds: Bounds) -> tuple[int, int, bytes]:
    """Return height, width and RGB bytes of the picture in `source`: a file, or one as base64 or data URI.

    Raises BadPicture with the reason.
    """
    file = file_in(source, bounds.max_bytes) if isinstance(source, str) else source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _opened(file)
        width, height = image.size
        if width * height > bounds.max_source_pixels:
            raise BadPicture(f"has {width} x {height} pixels; at most {bounds.max_source_pixels} in all are taken")
        try:
            return _pixels(image, bounds)
        except BadPicture:
            raise
        except Exception as error:  # decoders of damaged files may fail in any way
            raise BadPicture("is damaged or cut off, or uses a part of its format that is not supported") from error


def model_size(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return width and height for the model: multiples of 32, their product within the bounds if that is possible.

    Follows `smart_resize` of qwen_vl_utils and transformers. Raises BadPicture for pictures that are too narrow.
    """
    if max(width, height) > _STEEPEST * min(width, height):
        raise BadPicture(f"is {width} x {height} pixels: one side is more than {_STEEPEST} times the other")
    columns, rows = (max(SIDE, round(side / SIDE) * SIDE) for side in (width, height))
    if columns * rows > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        columns, rows = (max(SIDE, math.floor(side / scale / SIDE) * SIDE) for side in (width, height))
    elif columns * rows < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        columns, rows = (math.ceil(side * scale / SIDE) * SIDE for side in (width, height))
    return columns, rows


def _opened(file: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadPicture(f"holds no picture that can be read; send {IN_WORDS}") from None
    except Exception as error:
        raise BadPicture("has a damaged header, or one too large to be read") from error


def _pixels(image: Image.Image, bounds: Bounds) -> tuple[int, int, bytes]:
    model_size(*image.size, bounds.min_pixels, bounds.max_pixels)
    if bounds.turn_by_exif:
        image = ImageOps.exif_transpose(image)
    colours = _rgb(image)
    size = model_size(*colours.size, bounds.min_pixels, bounds.max_pixels)
    pixels = colours.resize(size, Image.Resampling.BICUBIC)
    return pixels.height, pixels.width, pixels.tobytes()


def _rgb(image: Image.Image) -> Image.Image:
    """Return the colours that a viewer would show: grey of 16 bits scaled to 8, transparent parts on white."""
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode in ("I", "F"):
        raise BadPicture("has samples of 32 bits, for which there is no agreed white; send 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
