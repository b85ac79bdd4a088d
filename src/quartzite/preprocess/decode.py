"""Makes the pixels that a model takes out of the file of a picture; runs in a process of its own.

A file that was made to do harm takes down nothing but that process, which has little memory, and which is ended
when it takes too long. Knows Pillow; imports nothing else that is heavy, so that the process starts at once.

The recipe is that of Qwen3-VL-Embedding's own script (qwen_vl_utils 0.0.14): RGB, transparent parts on white, no turn
by EXIF, sides rounded to multiples of 32 within bounds on their product, Pillow's bicubic filter.
"""

import math
import os
import resource
import signal
import warnings
from functools import cache
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from quartzite.preprocess.sources import BadPicture, file_in

SIDE = 32
"""Sides are multiples of this many pixels: two patches, which become one image token."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
IN_WORDS = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_STEEPEST = 200

# What the process may have: itself and its libraries, and the copies that reading and converting make of each pixel.
_OWN_BYTES = 256 * 1024 * 1024
_BYTES_PER_PIXEL = 26

# Pillow's own bound is a constant of the library; the one of the settings is checked below, before any pixel is read.
Image.MAX_IMAGE_PIXELS = None


class Bounds(NamedTuple):
    """What a picture may be, as it comes (`max_bytes`, `max_source_pixels`) and for the model."""

    max_bytes: int
    max_source_pixels: int
    min_pixels: int
    max_pixels: int
    turn_by_exif: bool


def decode_apart(source: bytes | str, bounds: Bounds) -> tuple[int, int, bytes]:
    """Confine the process that this runs in, then do as `decode` does."""
    _confine(_OWN_BYTES + _BYTES_PER_PIXEL * bounds.max_source_pixels)
    return decode(source, bounds)


@cache
def _confine(most_bytes: int) -> None:
    """Give this process `most_bytes` of memory, no ears for signals, and nothing that its libraries can write to."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # A terminal and an init system signal the whole group; the server ends this process when it is done with it.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    # Libraries complain of damaged files, and nobody reads it: the process would stop when the pipe is full.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


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
