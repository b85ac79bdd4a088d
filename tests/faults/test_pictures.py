"""The pictures of requests: read side by side in processes of their own, bounded in number, time and memory."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from picture_hosts import Names, Visit, answer, picture_host
from quartzite.config import ImageSettings
from quartzite.domain import ImageItem, Item, TextItem
from quartzite.errors import InvalidConfig, InvalidImage, Overloaded
from quartzite.preprocess.pictures import Pictures
from seeing import data_uri, drawn, png

DAMAGED = data_uri(png(64, 64)[:-40])
A_MEGABYTE = 3 * 1_843_200


@asynccontextmanager
async def pictures(port: int = 0, decoding_s: float = 10.0, **settings: Any) -> AsyncIterator[Pictures]:
    """Pictures that may be fetched from `pictures.test:PORT`."""
    names = Names({"pictures.test": [["127.0.0.1"]]})
    allowed = (f"pictures.test:{port}",) if port else ()
    running = Pictures(ImageSettings(allowed_hosts=allowed, **settings), names, decoding_s=decoding_s)
    try:
        yield running
    finally:
        await running.close()


Decoders = Callable[[], list[psutil.Process]]


@pytest.fixture
def decoders() -> Decoders:
    """Tells the processes that decode for this test; those of others may still be ending."""
    others = children()
    return lambda: [child for child in children() if child not in others]


def children() -> list[psutil.Process]:
    """The processes that this one has started and that have not ended."""
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


async def test_pictures_come_in_the_places_of_their_items() -> None:
    """Fetched or sent along, each is at its item, and items without have none."""
    async with picture_host(answer(png(64, 96))) as host, pictures(host.port) as reading:
        items: list[Item] = [ImageItem(data_uri(png(96, 64))), TextItem("a"), ImageItem(host.url())]
        first, nothing, last = await reading.read(items)
    assert nothing is None
    assert first is not None
    assert last is not None
    assert (first.pixels == drawn(96, 64)).all()
    assert (last.pixels == drawn(64, 96)).all()
    assert first.pixels.dtype == np.uint8


async def test_without_images_nothing_is_started(decoders: Decoders) -> None:
    """Requests of text alone cost no process and no client."""
    async with pictures() as reading:
        assert await reading.read([TextItem("a"), TextItem("b")]) == [None, None]
        assert decoders() == []


async def test_equal_images_are_fetched_and_decoded_once() -> None:
    """A URL that several items have is visited once in a request."""
    async with picture_host(answer(png(64, 64))) as host, pictures(host.port) as reading:
        one, other, again = await reading.read([ImageItem(host.url()), ImageItem(host.url()), ImageItem(host.url())])
        assert one is other is again
        assert len(host.visits) == 1


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (DAMAGED, "is damaged or cut off, or uses a part of its format that is not supported"),
        ("bm8gcGljdHVyZQ==", "holds no picture that can be read; send PNG, JPEG, WebP, GIF, BMP or TIFF"),
        ("picture.png", "is neither a URL nor base64"),
        ("ftp://pictures.test/a.png", "is a URL that begins with `ftp:`; only `http:`, `https:` and `data:` are taken"),
        ("http://nowhere.test/a.png", "is on a host that pictures are not fetched from"),
    ],
)
async def test_the_image_at_fault_is_named(image: str, says: str) -> None:
    """The failure has the place of the first item with that image; good ones beside it are dropped."""
    items: list[Item] = [ImageItem(data_uri(png(64, 64)), "", "input[0]"), TextItem("a", "input[1]")]
    items += [ImageItem(image, "", "input[2]"), ImageItem(image, "", "input[3]")]
    async with pictures() as reading:
        with pytest.raises(InvalidImage) as caught:
            await reading.read(items)
    assert caught.value.pointer == "input[2].image"
    assert f"`input[2].image` {says}" in caught.value.message
    assert caught.value.message.startswith("Image url should be a valid url or should like data:image/TYPE;base64,")


async def test_a_failure_ends_the_fetching_of_the_others() -> None:
    """Nobody waits for pictures of a request that has failed."""
    left = asyncio.Event()

    async def respond(visit: Visit) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async with picture_host(respond) as host, pictures(host.port) as reading, asyncio.timeout(5):
        with pytest.raises(InvalidImage, match="neither a URL nor base64"):
            await reading.read([ImageItem(host.url()), ImageItem("a.png")])


@pytest.mark.parametrize("most", [1, 3])
async def test_so_many_are_fetched_at_the_same_time(most: int) -> None:
    """The others wait for their turn, those of other requests too."""
    inside, seen, full = 0, 0, asyncio.Event()

    async def respond(visit: Visit) -> None:
        nonlocal inside, seen
        inside, seen = inside + 1, max(seen, inside + 1)
        if inside == most:
            full.set()
        await full.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        inside -= 1
        await visit.send(answer(png(64, 64)))

    async with picture_host(respond) as host, pictures(host.port, fetches=most) as reading, asyncio.timeout(20):
        requests = [[ImageItem(host.url(path=f"/{n}/{k}")) for k in range(3)] for n in range(3)]
        await asyncio.gather(*map(reading.read, requests))
        assert len(host.visits) == 9
    assert seen == most


STUCK = ("-c", "import sys; sys.stdin.buffer.read()")
HUNGRY = (
    "-c",
    "import sys; from quartzite.preprocess import decoder; "
    "decoder.decode = lambda *_: (0, 0, b'took all' + bytes(2_000_000_000)[:0]); decoder.main(sys.argv[1:])",
)
CRASHING = ("-c", "import os; os.read(0, 1); os.abort()")


async def test_decoding_that_takes_too_long_is_ended(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is, too, and the next picture has a new one."""
    async with pictures(decoding_s=0.5) as reading:
        with monkeypatch.context() as patched:
            patched.setattr("quartzite.preprocess.decoders.PROGRAM", STUCK)
            with pytest.raises(InvalidImage, match=r"`input\.image` cannot be decoded within 0\.5 s"):
                await reading.read([ImageItem(data_uri(png(64, 64)))])
        assert decoders() == []
    async with pictures() as reading:
        (picture,) = await reading.read([ImageItem(data_uri(png(64, 64)))])
        assert picture is not None


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_a_picture_given_up_leaves_no_process(steps: int, decoders: Decoders) -> None:
    """Whenever its client leaves, while the process starts too: what is still there is there for the next picture."""
    async with pictures() as reading:
        await reading.read([ImageItem(data_uri(png(64, 64)))])
        both = asyncio.gather(*(reading.read([ImageItem(data_uri(png(64, 64, seed)))]) for seed in range(2)))
        for _ in range(steps):
            await asyncio.sleep(0)
        both.cancel()
        await asyncio.gather(both, return_exceptions=True)
        await asyncio.gather(*(reading.read([ImageItem(data_uri(png(64, 64)))]) for _ in range(2)))
        assert len(decoders()) <= 2
    assert decoders() == []


async def test_processes_end_when_pictures_are_closed(decoders: Decoders) -> None:
    """A service that stops leaves none behind in a program that goes on."""
    async with pictures() as reading:
        await reading.read([ImageItem(data_uri(png(64, 64))), ImageItem(data_uri(png(64, 96)))])
        assert decoders()
    assert decoders() == []


def tags_on_one_place(tags: int, size: int) -> bytes:
    """A TIFF file whose tags all have the same megabytes for their value."""
    entries = b"".join(struct.pack("<HHII", 1_000 + tag, 7, size, 14 + 12 * tags) for tag in range(tags))
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4) + b"x" * size


def most_bytes(process: psutil.Process) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return 1_024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


async def test_a_file_made_to_fill_the_memory_is_refused(decoders: Decoders) -> None:
    """18 MB that a reader of their tags would make 18 GB of: the process never had as much, and goes on."""
    async with pictures(max_source_pixels=1_000_000) as reading:
        with pytest.raises(InvalidImage, match=r"input\.image` (has a damaged header|holds no picture)"):
            await reading.read([ImageItem(data_uri(tags_on_one_place(1_000, 14_000_000)))])
        (decoder,) = decoders()
        assert most_bytes(decoder) < 300_000_000
        await reading.read([ImageItem(data_uri(png(64, 64)))])
        assert decoders() == [decoder]


async def test_a_decoder_that_takes_too_much_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that fills the memory, there are 256 MB and 26 bytes for each pixel that may come."""
    monkeypatch.setattr("quartzite.preprocess.decoders.PROGRAM", HUNGRY)
    async with pictures() as reading:
        with pytest.raises(InvalidImage, match="the decoder ends with it"):
            await reading.read([ImageItem("AAAA")])
    async with pictures(max_source_pixels=100_000_000) as reading:
        with pytest.raises(InvalidImage, match="took all"):
            await reading.read([ImageItem("AAAA")])


async def test_a_process_that_is_killed_is_replaced_and_its_picture_read(decoders: Decoders) -> None:
    """What ended it, short of memory, may have had nothing to do with the picture."""
    async with pictures(decoders=1) as reading:
        await reading.read([ImageItem(data_uri(png(64, 64)))])
        (first,) = decoders()
        os.kill(first.pid, signal.SIGKILL)
        await reading.read([ImageItem(data_uri(png(64, 96)))])
        assert first.pid not in [decoder.pid for decoder in decoders()]


async def test_a_picture_that_ends_its_process_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that crashes takes the process with it, not the server, and not the next picture."""
    async with pictures(decoders=1) as reading:
        with monkeypatch.context() as patched:
            patched.setattr("quartzite.preprocess.decoders.PROGRAM", CRASHING)
            with pytest.raises(InvalidImage, match=r"`input\.image` cannot be decoded: the decoder ends with it"):
                await reading.read([ImageItem(data_uri(png(64, 64)))])
        (picture,) = await reading.read([ImageItem(data_uri(png(64, 64)))])
        assert picture is not None


async def test_signals_for_the_group_leave_the_processes_alone(decoders: Decoders) -> None:
    """A terminal sends Ctrl-C to all of them; the pictures of running requests are still to be read."""
    async with pictures(decoders=1) as reading:
        await reading.read([ImageItem(data_uri(png(64, 64)))])
        (decoder,) = decoders()
        for ending in (signal.SIGINT, signal.SIGTERM):
            os.kill(decoder.pid, ending)
        await reading.read([ImageItem(data_uri(png(64, 96)))])
        assert decoders() == [decoder]


def written_to(process: psutil.Process) -> set[str]:
    """Where a process writes its output and its errors."""
    return {str(Path(f"/proc/{process.pid}/fd/{stream}").readlink()) for stream in (1, 2)}


async def test_what_libraries_write_goes_nowhere(decoders: Decoders) -> None:
    """TIFF's writes a line for every damaged file: it would fill a pipe some day, or break the answers at once."""
    async with pictures() as reading:
        await reading.read([ImageItem(data_uri(png(64, 64)))])
        (decoder,) = decoders()
        assert written_to(decoder) == {os.devnull}


async def test_memory_is_counted_until_the_request_ends() -> None:
    """Each picture at the most that it may become, and what came along with the request."""
    image = data_uri(png(64, 64))
    async with pictures() as reading:
        with reading.held([ImageItem(image), TextItem("a"), ImageItem("x")]):
            assert reading.held_bytes == len(image) + 1 + 2 * A_MEGABYTE
            with reading.held([TextItem("a")]):
                assert reading.held_bytes == len(image) + 1 + 2 * A_MEGABYTE
        assert reading.held_bytes == 0


async def test_beyond_the_bound_a_request_is_refused_but_never_the_only_one() -> None:
    """A request alone may be as large as it likes; texts need no room here."""
    async with pictures(max_held_bytes=3 * A_MEGABYTE) as reading:
        with reading.held([ImageItem("x")] * 32):
            with pytest.raises(Overloaded), reading.held([ImageItem("x")]):
                pass
            with reading.held([TextItem("a")]):
                pass
        one = [ImageItem("x")]
        with reading.held(one), reading.held(one), pytest.raises(Overloaded), reading.held(one):
            pass
        assert reading.held_bytes == 0


def test_a_wrong_list_of_hosts_stops_the_start() -> None:
    """It is read when the service is built, not at the first picture."""
    with pytest.raises(InvalidConfig, match=r"images\.allowed_hosts: '\*\.internal'"):
        Pictures(ImageSettings(allowed_hosts=("*.internal",)))
