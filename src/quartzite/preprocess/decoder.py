"""The program that decodes pictures, one after the other as they come through its pipe: a process of its own.

A file that was made to do harm takes down nothing but this process, which has little memory, and which is ended when
it takes too long. Imports nothing heavy but Pillow, so that it starts at once.

    python -m quartzite.preprocess.decoder MAX_BYTES MAX_SOURCE_PIXELS MIN_PIXELS MAX_PIXELS TURN_BY_EXIF
"""

import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

from quartzite.preprocess.decode import Bounds, decode
from quartzite.preprocess.sources import BadPicture

REQUEST = struct.Struct("<cQ")
"""What goes ahead of a source: its kind, FILE or TEXT, and its size in bytes."""

ANSWER = struct.Struct("<IIQ")
"""What goes ahead of an answer: height, width and size of RGB bytes; without height and width a reason in UTF-8."""

FILE, TEXT = b"F", b"T"
ENCODING = {"encoding": "utf-8", "errors": "surrogatepass"}

# What the process may have: itself and its libraries, and the copies that reading and converting make of each pixel.
_OWN_BYTES = 256 * 1024 * 1024
_BYTES_PER_PIXEL = 26


def confine(max_source_pixels: int) -> None:
    """Give this process the memory that such pictures need, no ears for signals, and nowhere to write."""
    most_bytes = _OWN_BYTES + _BYTES_PER_PIXEL * max_source_pixels
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # A terminal and an init system signal the whole group; the server ends this process when it is done with it.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    # Libraries complain of damaged files: nobody reads it, and a line among the answers would break them.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def serve(requests: BinaryIO, answers: BinaryIO, bounds: Bounds) -> None:
    """Decode what comes until nothing comes any more."""
    while header := requests.read(REQUEST.size):
        kind, size = REQUEST.unpack(header)
        sent = requests.read(size)
        height, width, content = _answer(sent if kind == FILE else sent.decode(**ENCODING), bounds)
        answers.write(ANSWER.pack(height, width, len(content)))
        answers.write(content)
        answers.flush()


def _answer(source: bytes | str, bounds: Bounds) -> tuple[int, int, bytes]:
    try:
        return decode(source, bounds)
    except BadPicture as fault:
        return 0, 0, str(fault).encode()


def main(arguments: list[str]) -> None:
    """Serve the pipe that this process was started with."""
    most_bytes, most_source_pixels, fewest, most, turn = map(int, arguments)
    bounds = Bounds(most_bytes, most_source_pixels, fewest, most, bool(turn))
    with os.fdopen(os.dup(1), "wb") as answers:
        confine(bounds.max_source_pixels)
        serve(sys.stdin.buffer, answers, bounds)


if __name__ == "__main__":
    main(sys.argv[1:])
