"""What an `image` is: URL, data URI or base64 in all its spellings."""

import base64
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartzite.preprocess.sources import BadPicture, file_in, is_url

MOST = 1_000
FILE = bytes(range(256)) + b"\xfb\xff\xfe" * 3


@pytest.mark.parametrize("image", ["http://a/b", "https://a/b", "HTTP://a/b", "hTTps://a"])
def test_urls_of_the_web_are_fetched(image: str) -> None:
    """Schemes are told apart in any case."""
    assert is_url(image)


@pytest.mark.parametrize("image", ["data:image/png;base64,AAAA", "DATA:,", "iVBORw0KGgo=", "/9j/4AAQ", "a.jpg", ""])
def test_all_else_is_the_file_itself(image: str) -> None:
    """Base64 has no colon in it, so that it is never taken for a URL."""
    assert not is_url(image)


@pytest.mark.parametrize(
    "image", ["ftp://a/b", "file:///etc/passwd", "gopher://a", "javascript:1", "C:/a.png", "s3://a/b"]
)
def test_urls_of_other_kinds_are_refused_by_name(image: str) -> None:
    """The refusal says which ones are taken."""
    scheme = image.partition(":")[0].lower()
    with pytest.raises(BadPicture, match=rf"begins with `{scheme}:`; only `http:`, `https:` and"):
        is_url(image)


def test_a_long_scheme_is_shown_in_short() -> None:
    """What a client makes up does not fill the answer."""
    with pytest.raises(BadPicture) as caught:
        is_url("x" * 5_000 + ":a")
    assert len(str(caught.value)) < 150


SPELLINGS = {
    "standard": base64.b64encode(FILE).decode(),
    "without padding": base64.b64encode(FILE).decode().rstrip("="),
    "URL alphabet": base64.urlsafe_b64encode(FILE).decode(),
    "URL alphabet without padding": base64.urlsafe_b64encode(FILE).decode().rstrip("="),
    "lines": "\r\n".join(textwrap.wrap(base64.b64encode(FILE).decode(), 76)),
    "blanks": " \t".join(base64.b64encode(FILE).decode()) + "\f\v\n",
    "data URI": "data:image/png;base64," + base64.b64encode(FILE).decode(),
    "data URI of no type": "data:;base64," + base64.b64encode(FILE).decode(),
    "data URI with parameters": "data:image/png;name=a.png;BASE64 ," + base64.urlsafe_b64encode(FILE).decode(),
    "data URI of letters in per cent": "Data:image/png;base64," + base64.b64encode(FILE).decode().replace("+", "%2B"),
}


@pytest.mark.parametrize("image", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_base64_is_taken_in_every_usual_spelling(image: str) -> None:
    """Alphabet, padding, line breaks and a data URI around it make no difference."""
    assert file_in(image, MOST) == FILE


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_file_comes_back(file: bytes, of_urls: bool, padded: bool) -> None:
    """What was encoded is decoded, whatever its length."""
    image = (base64.urlsafe_b64encode if of_urls else base64.b64encode)(file).decode()
    assert file_in(image if padded else image.rstrip("="), MOST) == file


@pytest.mark.parametrize(
    "image", ["a.jpg", "A", "AAAAA", "AA=A", "é", "\ud800", "AAA\0", "{}", "data:image/png;base64,A"]
)
def test_what_is_not_base64_is_refused(image: str) -> None:
    """Nothing of the text is repeated, which may be private."""
    with pytest.raises(BadPicture, match=r"^is neither a URL nor base64$"):
        file_in(image, MOST)


@pytest.mark.parametrize(
    "image", ["data:image/png,AAAA", "data:text/plain;charset=utf-8,a", "data:", "data:base64,AAAA"]
)
def test_a_data_uri_without_base64_is_refused(image: str) -> None:
    """The refusal shows the form that is taken."""
    with pytest.raises(BadPicture, match=r"is a data URI without base64; send `data:image/TYPE;base64,...`"):
        file_in(image, MOST)


def test_the_largest_file_is_taken_and_one_byte_more_is_not() -> None:
    """The bound is on the file, whatever blanks its base64 has."""
    assert len(file_in(base64.b64encode(bytes(MOST)).decode() + "\n" * 2_000, MOST)) == MOST
    with pytest.raises(BadPicture, match=r"^has 1001 bytes; at most 1000 are taken$"):
        file_in(base64.b64encode(bytes(MOST + 1)).decode(), MOST)
