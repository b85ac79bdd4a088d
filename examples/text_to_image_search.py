"""Search pictures by a text: embed both through a running server, and print the pictures, the nearest first.

    python examples/text_to_image_search.py 'a red circle'                    # over pictures that are drawn here
    python examples/text_to_image_search.py --pictures holidays 'a sunset'    # over those of a folder

Needs Python alone, and a server with a model that takes images:
`make serve ARGS='--model Qwen/Qwen3-VL-Embedding-8B'`.
"""

import argparse
import base64
import json
import os
import struct
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

AT_ONCE = 8
SIDE = 224
INSTRUCTION = "Retrieve images or text relevant to the user's query."
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
Vector = tuple[float, ...]


def main() -> None:
    """Rank the pictures."""
    options = arguments()
    pictures = dict(files_in(options.pictures) if options.pictures else drawn())
    if not pictures:
        sys.exit(f"{options.pictures}: no pictures ({', '.join(sorted(SUFFIXES))}) in there")
    # The query has an instruction, what is searched has none: so the model was trained.
    (query,) = embed(options, [options.query], instruction=INSTRUCTION)
    vectors = embed(options, [{"image": base64.b64encode(file).decode()} for file in pictures.values()])
    ranked = sorted(zip(pictures, vectors, strict=True), key=lambda named: dot(query, named[1]), reverse=True)
    for name, vector in ranked:
        print(f"{dot(query, vector):7.4f}  {name}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Search pictures by a text.")
    parser.add_argument("query", help="what to look for")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="pictures to search, else some are drawn")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server, default: %(default)s")
    parser.add_argument("--model", default="Qwen/Qwen3-VL-Embedding-8B", help="default: %(default)s")
    return parser.parse_args()


def embed(options: argparse.Namespace, items: Sequence[object], **fields: str) -> list[Vector]:
    """Return the vectors of `items`, a few of them in each request, for a picture may have megabytes."""
    vectors: list[Vector] = []
    for begin in range(0, len(items), AT_ONCE):
        chunk = items[begin : begin + AT_ONCE]
        answer = post(options.url, {"model": options.model, "input": chunk, "encoding_format": "base64", **fields})
        vectors += [floats(row["embedding"]) for row in answer["data"]]
    return vectors


def post(url: str, body: Mapping[str, object]) -> dict[str, list[dict[str, str]]]:
    """Return the answer of the server; ends with what it says when it refuses."""
    key = os.environ.get("QUARTZITE_API_KEY", "none")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/embeddings", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            told: dict[str, list[dict[str, str]]] = json.load(answer)
            return told
    except urllib.error.HTTPError as failure:
        sys.exit(f"{failure.code}: {failure.read().decode()}")


def floats(text: str) -> Vector:
    """Return the float32 values, little-endian, of a vector in base64."""
    packed = base64.b64decode(text)
    return struct.unpack(f"<{len(packed) // 4}f", packed)


def dot(a: Vector, b: Vector) -> float:
    """Return the cosine of two vectors of unit length."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the pictures in `folder`."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            yield path.name, path.read_bytes()


COLOURS = {"red": b"\xff\0\0", "green": b"\0\x80\0", "blue": b"\0\0\xff"}
SHAPES: Mapping[str, Callable[[int, int], bool]] = {
    "circle": lambda x, y: (x - 112) ** 2 + (y - 112) ** 2 <= 72**2,
    "square": lambda x, y: 40 <= x <= 184 and 40 <= y <= 184,
    "triangle": lambda x, y: y <= 184 and 2 * abs(x - 112) <= y - 40,
}


def drawn() -> Iterator[tuple[str, bytes]]:
    """Yield names and PNG files of circles, squares and triangles in three colours."""
    for colour, ink in COLOURS.items():
        for shape, covers in SHAPES.items():
            rows = [b"".join(ink if covers(x, y) else b"\xff\xff\xff" for x in range(SIDE)) for y in range(SIDE)]
            yield f"{colour} {shape}", png(rows)


def png(rows: Sequence[bytes]) -> bytes:
    """Return a PNG file of square pictures' `rows`, three bytes a pixel."""
    header = struct.pack(">IIBBBBB", len(rows), len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = {b"IHDR": header, b"IDAT": pixels, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


if __name__ == "__main__":
    main()
