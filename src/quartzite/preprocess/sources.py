"""What the `image` of a request is: the URL of a file, or the file itself in base64. Pure: fetches nothing."""

import binascii
import re
from urllib.parse import unquote

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_TO_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\f\v"


class BadPicture(Exception):
    """A picture cannot be taken; the message goes on from the name of its place in the request."""


def is_url(image: str) -> bool:
    """Tell whether `image` is to be fetched; raises BadPicture if it is a URL of a kind that is not."""
    found = _SCHEME.match(image)
    scheme = found[1].lower() if found else "data"
    if scheme not in ("http", "https", "data"):
        raise BadPicture(f"is a URL that begins with `{scheme[:20]}:`; only `http:`, `https:` and `data:` are taken")
    return scheme != "data"


def file_in(image: str, max_bytes: int) -> bytes:
    """Return the file in `image`: base64, or a data URI with base64.

    Either alphabet is taken, with or without padding, and whitespace anywhere. Raises BadPicture for anything else and
    for more than `max_bytes`.
    """
    letters = _letters(image).translate(_TO_STANDARD_ALPHABET, _WHITESPACE).rstrip(b"=")
    try:
        file = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4), strict_mode=True)
    except binascii.Error:
        raise BadPicture("is neither a URL nor base64") from None
    if len(file) > max_bytes:
        raise BadPicture(f"has {len(file)} bytes; at most {max_bytes} are taken")
    return file


def _letters(image: str) -> bytes:
    """Return what is base64 of `image`."""
    if image[:5].lower() == "data:":
        header, _, image = image.partition(",")
        if not header.rstrip().lower().endswith(";base64"):
            raise BadPicture("is a data URI without base64; send `data:image/TYPE;base64,...`")
        image = unquote(image) if "%" in image else image
    try:
        return image.encode("ascii")
    except UnicodeEncodeError:
        raise BadPicture("is neither a URL nor base64") from None
