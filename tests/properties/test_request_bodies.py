"""Any bytes as the body of a request: a checked request or a refusal that names a field, and never anything else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartzite.config import RequestSettings
from quartzite.domain import EmbeddingRequest, TextItem
from quartzite.errors import InvalidParameter, TooManyItems
from quartzite.web.schemas import read_request

SETTINGS = RequestSettings()
FIELDS = ["model", "input", "encoding_format", "dimensions", "truncate", "user"]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars | st.sampled_from(["float", "base64", "left", "right", 64]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
names = st.sampled_from(FIELDS) | st.text(max_size=8)
objects = st.dictionaries(names, values, max_size=2).map(lambda fields: {"model": "m", "input": "text", **fields})


def _read(body: bytes) -> EmbeddingRequest | InvalidParameter | TooManyItems:
    try:
        return read_request(body, SETTINGS)
    except (InvalidParameter, TooManyItems) as refusal:
        return refusal


@given(objects)
def test_any_json_object_is_read_or_refused_by_name(fields: dict[str, object]) -> None:
    """Whatever the fields hold: what is taken has the types it should have, what is not names its field."""
    request = _read(json.dumps(fields).encode())
    if not isinstance(request, EmbeddingRequest):
        assert request.pointer.split("[")[0] in FIELDS
    else:
        assert request.model == fields["model"] != ""
        assert request.encoding == (fields.get("encoding_format") or "float")
        assert request.truncate == fields.get("truncate")
        assert request.dimensions is None or (type(request.dimensions) is int and request.dimensions >= 1)
        assert request.user is None or isinstance(request.user, str)
        assert request.items


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Bytes that are no JSON do no harm."""
    assert isinstance(_read(body), InvalidParameter)


@given(st.text(min_size=1).filter(lambda text: bool(text.strip("\r\n"))), st.integers(0, 400), st.binary(max_size=3))
def test_a_damaged_body_is_read_or_refused(text: str, place: int, inserted: bytes) -> None:
    """A good body with bytes put in or taken out anywhere gives a request or a refusal."""
    body = json.dumps({"model": "m", "input": [text], "user": "u"}, ensure_ascii=False).encode()
    request = _read(body)
    assert isinstance(request, EmbeddingRequest)
    assert request.items == (TextItem(text, "input[0]"),)
    _read(body[:place] + inserted + body[place:])
    _read(body[:place] + body[place + 1 :])


@pytest.mark.parametrize("field", FIELDS)
def test_null_is_as_good_as_nothing(field: str) -> None:
    """A field that is null is treated, or refused, as the same field left out."""
    fields = dict(zip(FIELDS, ["m", "text", "base64", 2, "left", "someone"], strict=True))
    null = _read(json.dumps(fields | {field: None}).encode())
    del fields[field]
    assert repr(null) == repr(_read(json.dumps(fields).encode()))
