"""Decodes thousands of damaged pictures as the decoder's process does, and prints what became of them.

    python tests/mutated_pictures.py FORMAT CASES SEED

A process of its own, for it is confined, and a decoder that crashes would end it. Prints one JSON object: how many
were taken and refused, the longest time in seconds, and the most memory in bytes; before it, the number of each case.
"""

import json
import os
import random
import struct
import sys
import time
from pathlib import Path

from PIL import Image

from quartzite.preprocess.decode import Bounds, decode
from quartzite.preprocess.decoder import confine
from quartzite.preprocess.sources import BadPicture
from seeing import drawn, file_of

BOUNDS = Bounds(100_000, 1_000_000, 4_096, 65_536, turn_by_exif=True)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def whole_files(kind: str) -> list[bytes]:
    """Small pictures in the modes and options of a format."""
    colour = Image.fromarray(drawn(40, 30))
    turned = Image.Exif()
    turned[0x0112] = 6
    modes = {
        "PNG": [colour, colour.convert("RGBA"), colour.quantize(16), colour.convert("L"), colour.convert("1")],
        "JPEG": [colour, colour.convert("L"), colour.convert("CMYK")],
        "WEBP": [colour, colour.convert("RGBA")],
        "GIF": [colour.quantize(16), colour.convert("L")],
        "BMP": [colour, colour.quantize(16), colour.convert("1"), colour.convert("RGBA")],
        "TIFF": [colour, colour.convert("RGBA"), colour.convert("CMYK"), colour.quantize(16), colour.convert("I;16")],
    }[kind]
    options: list[dict[str, object]] = {
        "PNG": [{}, {"exif": turned}],
        "JPEG": [{}, {"progressive": True}, {"exif": turned}],
        "WEBP": [{}, {"lossless": True}, {"exif": turned}],
        "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}],
    }.get(kind, [{}])
    return [file_of(image, kind, **chosen) for image in modes for chosen in options] + animated(kind, modes)


def animated(kind: str, frames: list[Image.Image]) -> list[bytes]:
    """A file of several frames, where the format has them."""
    return [file_of(frames[0], kind, save_all=True, append_images=frames[1:])] if kind not in ("JPEG", "BMP") else []


def mutated(file: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Damage `file` in one to four ways."""
    damaged = bytearray(file)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(damaged) + 1)
        match dice.randrange(7):
            case 0:
                del damaged[place:]
            case 1:
                del damaged[place : place + dice.randint(1, 64)]
            case 2:
                damaged[place:place] = dice.randbytes(dice.randint(1, 64))
            case 3:
                damaged[place : place + 8] = dice.randbytes(8)
            case 4:
                number = struct.pack(dice.choice("<>") + "I", dice.choice(EXTREMES))
                size = dice.choice((1, 2, 4))
                damaged[place : place + size] = number[:size]
            case 5:
                other = dice.choice(others)
                damaged[place:] = other[dice.randrange(len(other)) :]
            case _:
                damaged[place : place + 1] = bytes([dice.choice((0, 255, dice.randrange(256)))])
    return bytes(damaged)


def most_bytes() -> int:
    """The most memory that this process had, that of the one it was forked from not counted."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1_024 for line in status if line.startswith("VmHWM:"))


def main(kind: str, cases: int, seed: int) -> None:
    """Decode `cases` damaged files of a format."""
    dice, files = random.Random(f"{kind} {seed}"), whole_files(kind)
    counts, slowest_s = {"taken": 0, "refused": 0}, 0.0
    report = os.fdopen(os.dup(1), "w", encoding="ascii")
    confine(BOUNDS.max_source_pixels)
    for file in files:
        decode(file, BOUNDS)
    for case in range(cases):
        print(case, file=report, flush=True)
        damaged, begun = mutated(dice.choice(files), files, dice), time.perf_counter()
        try:
            height, width, pixels = decode(damaged, BOUNDS)
        except BadPicture:
            counts["refused"] += 1
        else:
            if len(pixels) != 3 * height * width or height % 32 or width % 32 or height * width > BOUNDS.max_pixels:
                raise SystemExit(f"case {case}: {len(pixels)} bytes for {width} x {height} pixels")
            counts["taken"] += 1
        slowest_s = max(slowest_s, time.perf_counter() - begun)
    print(json.dumps({**counts, "slowest_s": slowest_s, "most_bytes": most_bytes()}), file=report, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
