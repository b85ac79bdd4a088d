"""From the file of a picture to the pixels for the model: sizes, formats, modes, and what is refused."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from quartzite.preprocess.decode import FORMATS, Bounds, decode, model_size
from quartzite.preprocess.sources import BadPicture
from seeing import data_uri, drawn, file_of, png

BOUNDS = Bounds(1_000_000, 1_000_000, 4_096, 1_843_200, turn_by_exif=False)
HUB = 1_310_720


def pixels(source: bytes | str, bounds: Bounds = BOUNDS) -> NDArray[np.uint8]:
    height, width, rgb = decode(source, bounds)
    return np.frombuffer(rgb, np.uint8).reshape(height, width, 3)


def refusal(source: bytes | str, bounds: Bounds = BOUNDS) -> str:
    with pytest.raises(BadPicture) as caught:
        decode(source, bounds)
    return str(caught.value)


@pytest.mark.parametrize(
    ("height", "width", "tokens", "of_hub"),
    [
        *((1, 1, 4, 4), (64, 64, 4, 4), (31, 33, 6, 6), (224, 224, 49, 49), (336, 336, 100, 100), (480, 640, 300, 300)),
        *((768, 1024, 768, 768), (1080, 1920, 1736, 1222), (2160, 3840, 1736, 1222), (4000, 3000, 1728, 1230)),
    ],
)
def test_pictures_have_the_published_number_of_tokens(height: int, width: int, tokens: int, of_hub: int) -> None:
    """With the bounds of the model's script, and with those of its processor on the hub."""
    for most, expected in ((BOUNDS.max_pixels, tokens), (HUB, of_hub)):
        columns, rows = model_size(width, height, 4_096, most)
        assert columns % 32 == rows % 32 == 0
        assert columns * rows // 1_024 == expected


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (336, 336, (320, 320)),  # 10.5 blocks: half to even
        (304, 304, (320, 320)),  # 9.5 blocks
        (1, 190, (32, 192)),
        (1, 100, (32, 640)),
        (100, 1, (640, 32)),
        (33, 6_600, (32, 6_592)),
        (31, 33, (64, 96)),
    ],
)
def test_sizes_are_rounded_as_the_script_does(width: int, height: int, size: tuple[int, int]) -> None:
    """Half a block goes to the even side, and small pictures grow with their shape."""
    assert model_size(width, height, 4_096, 1_843_200) == size


@pytest.mark.parametrize(("width", "height"), [(1, 201), (400, 1), (2, 401)])
def test_pictures_too_narrow_are_refused(width: int, height: int) -> None:
    """As in the script, one side may be at most 200 times the other."""
    says = f"is {width} x {height} pixels: one side is more than 200 times the other"
    with pytest.raises(BadPicture, match=says):
        model_size(width, height, 4_096, 1_843_200)
    assert refusal(png(width, height)) == says


def test_tiny_bounds_never_make_a_side_of_nothing() -> None:
    """The smallest picture is one block, however few pixels are allowed."""
    assert model_size(3_000, 20, 1_024, 1_024) == (384, 32)


def test_a_picture_of_the_right_size_comes_through_as_it_is() -> None:
    """Nothing is resampled where there is nothing to change."""
    assert (pixels(png(96, 64)) == drawn(96, 64)).all()


def test_other_sizes_are_resampled_with_the_bicubic_filter() -> None:
    """Width and height are not confused, and the filter is that of the script."""
    expected = Image.fromarray(drawn(150, 100)).resize((160, 96), Image.Resampling.BICUBIC)
    assert (pixels(png(150, 100)) == np.asarray(expected)).all()


def test_the_file_may_come_as_base64() -> None:
    """Bare or as a data URI, and its size is bounded there, too."""
    file = png(96, 64)
    for text in (data_uri(file), base64.b64encode(file).decode()):
        assert (pixels(text) == drawn(96, 64)).all()
    assert refusal(data_uri(file), BOUNDS._replace(max_bytes=100)).endswith("bytes; at most 100 are taken")


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_told_by_its_content(kind: str) -> None:
    """Lossless formats give the very pixels, the others such as look the same."""
    image = Image.fromarray(np.kron(drawn(12, 8), np.ones((8, 8, 1), np.uint8)))
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    found = pixels(file_of(image.quantize(96) if kind == "GIF" else image, kind, **options))
    difference = np.abs(found.astype(int) - np.asarray(image)).max()
    assert difference <= {"JPEG": 12, "GIF": 40}.get(kind, 0)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "EPS", "JPEG2000", "PDF", "SGI", "DDS"])
def test_other_formats_of_the_library_are_not_tried(kind: str) -> None:
    """Each decoder is a way in for files made to do harm: there are six."""
    assert refusal(file_of(Image.new("RGB", (64, 64)), kind)).startswith(
        "holds no picture that can be read; send PNG, "
    )


GREY = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 256


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_16_bits_is_scaled_not_clipped(kind: str, order: str) -> None:
    """The darkest stays black and the brightest becomes white, in either order of bytes."""
    file = file_of(Image.fromarray((GREY * 257).astype("<u2")), kind)
    if kind == "TIFF" and order == ">u2":
        file = big_endian_tiff(GREY * 257)
    assert (pixels(file) == GREY[..., None]).all()


def big_endian_tiff(grey: NDArray[np.uint16]) -> bytes:
    """A TIFF file of 16-bit grey with the high byte first."""
    height, width = grey.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 3, height), (279, 4, 2 * grey.size)]
    entries = [
        struct.pack(">HHI", tag, kind, 1) + struct.pack(">HH" if kind == 3 else ">I", *([value, 0][: 5 - kind]))
        for tag, kind, value in tags
    ]
    return (
        b"MM\0*"
        + struct.pack(">I", 8 + 2 * grey.size)
        + grey.astype(">u2").tobytes()
        + (struct.pack(">H", len(tags)) + b"".join(entries) + bytes(4))
    )


MODES: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "black and white": (file_of(Image.new("1", (64, 64), 1)), (255, 255, 255)),
    "grey": (file_of(Image.new("L", (64, 64), 77)), (77, 77, 77)),
    "palette": (file_of(Image.new("RGB", (64, 64), (1, 2, 3)).quantize(4)), (1, 2, 3)),
    "CMYK in JPEG": (file_of(Image.new("CMYK", (64, 64), (255, 0, 0, 0)), "JPEG", quality=100), (0, 255, 255)),
    "CMYK in TIFF": (file_of(Image.new("CMYK", (64, 64), (0, 255, 0, 0)), "TIFF"), (255, 0, 255)),
    "YCbCr in TIFF": (file_of(Image.new("YCbCr", (64, 64), (128, 128, 128)), "TIFF"), (128, 128, 128)),
    "16 bits of colour": (b"", (18, 52, 86)),
    "transparent": (file_of(Image.new("RGBA", (64, 64), (10, 20, 30, 0))), (255, 255, 255)),
    "half transparent": (file_of(Image.new("RGBA", (64, 64), (255, 0, 0, 128))), (255, 127, 127)),
    "grey with alpha": (file_of(Image.new("LA", (64, 64), (0, 0))), (255, 255, 255)),
    "transparent in WebP": (file_of(Image.new("RGBA", (64, 64), (9, 9, 9, 0)), "WEBP", lossless=True), (255, 255, 255)),
    "transparent palette": (file_of(Image.new("P", (64, 64), 0), transparency=0), (255, 255, 255)),
    "transparent GIF": (file_of(Image.new("P", (64, 64), 0), "GIF", transparency=0), (255, 255, 255)),
    "one transparent colour": (file_of(Image.new("RGB", (64, 64), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)),
}


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(header: bytes, rows: bytes) -> bytes:
    """A PNG file of a header and filtered rows."""
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


DEEP = png_of(struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0), (b"\0" + b"\x12\x99\x34\x99\x56\x99" * 64) * 64)
MODES["16 bits of colour"] = (DEEP, (18, 52, 86))


@pytest.mark.parametrize(("file", "colour"), MODES.values(), ids=MODES.keys())
def test_each_mode_gives_the_colour_that_a_viewer_shows(file: bytes, colour: tuple[int, int, int]) -> None:
    """Palettes are looked up, other colour spaces converted, and what is transparent shows a white ground."""
    found = pixels(file)
    assert found.shape == (64, 64, 3)
    assert np.abs(found.reshape(-1, 3).astype(int) - colour).max() <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_samples_of_32_bits_are_refused(mode: str) -> None:
    """There is no telling how bright the brightest is."""
    assert refusal(file_of(Image.new(mode, (64, 64)), "TIFF")).startswith("has samples of 32 bits")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    """Animated and many-paged files are pictures of their first frame."""
    first, *others = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    found = pixels(file_of(first, kind, save_all=True, append_images=others, **options))
    assert (found == (255, 0, 0)).all()


def exif(orientation: int) -> Image.Exif:
    """EXIF data that asks for a turn."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_turned_by_exif_only_where_that_is_set(kind: str) -> None:
    """The model was trained without; the setting is for those who want what a viewer shows."""
    file = file_of(Image.new("RGB", (128, 64)), kind, exif=exif(6))
    assert pixels(file).shape == (64, 128, 3)
    assert pixels(file, BOUNDS._replace(turn_by_exif=True)).shape == (128, 64, 3)
    assert pixels(png(128, 64), BOUNDS._replace(turn_by_exif=True)).shape == (64, 128, 3)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    """Its header is enough, be it followed by nothing at all."""
    says = "has 30000 x 30000 pixels; at most 1000000 in all are taken"
    header_only = png_of(struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0), b"")
    assert refusal(header_only) == says
    gif = b"GIF89a" + struct.pack("<HHBBB", 30_000, 30_000, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    assert refusal(gif) == says


def test_the_largest_picture_is_taken() -> None:
    """The bound is on the product of the sides."""
    assert pixels(png(100, 80), BOUNDS._replace(max_source_pixels=8_000)).shape == (64, 96, 3)
    assert refusal(png(100, 80), BOUNDS._replace(max_source_pixels=7_999)).startswith("has 100 x 80 pixels")


WHOLE = {kind: file_of(Image.fromarray(drawn(200, 150)), kind) for kind in FORMATS}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_files_cut_off_are_refused(kind: str, kept: float) -> None:
    """Half a picture is none, and what is said of it repeats nothing from the file."""
    whole = WHOLE[kind]
    assert refusal(whole[: int(len(whole) * kept)]) in {
        "is damaged or cut off, or uses a part of its format that is not supported",
        "holds no picture that can be read; send PNG, JPEG, WebP, GIF, BMP or TIFF",
        "has a damaged header, or one too large to be read",
    }


@pytest.mark.parametrize(
    "file", [b"", b"\0", b"GIF89a", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0"]
)
def test_what_is_no_picture_is_refused(file: bytes) -> None:
    """An error page of a web server, an empty file and bare signatures."""
    assert refusal(file).startswith(("holds no picture that can be read", "has a damaged header"))


def test_a_picture_is_refused_whatever_the_decoder_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of damaged files fail in many ways, memory among them."""

    def load(_: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert refusal(io.BytesIO(png(64, 64)).getvalue()).startswith("is damaged or cut off")
