"""Fields given twice, held against a reader that keeps all of them; values so many that memory would swell."""

import json
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quartzite.config import RequestSettings
from quartzite.errors import InvalidParameter
from quartzite.web.json_body import CONTENT, FIELDS, SMALL_BYTES, refuse_crowd, refuse_repetition
from quartzite.web.schemas import read_request

Pairs = list[tuple[str, object]]
words = st.sampled_from(["model", "text", "image", 'a "text": b', "\\u006d", "é", "\\"])
contents = st.lists(st.tuples(st.sampled_from(["text", "image", "instruction", "note"]), words), max_size=3)
inputs = words | contents.map(tuple) | st.lists(words | contents.map(tuple) | st.lists(st.integers(), max_size=2))
extras = st.tuples(st.sampled_from([*FIELDS, "text", "metadata"]), words | contents.map(tuple))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, object, bool]:
    """Return a body, its `input` as read by a reader that keeps the last, and whether a field is repeated."""
    pairs = [("model", "m"), ("input", draw(inputs)), *draw(st.lists(extras.filter(lambda pair: pair[0] != "input")))]
    if draw(st.booleans()):
        pairs.append(("input", draw(inputs)))
    pairs = draw(st.permutations(pairs))
    text = _written(tuple(pairs), draw(st.sampled_from([":", " : ", "\n:\t"])))
    if draw(st.booleans()):
        text = text.replace('"text"', '"te\\u0078t"', draw(st.integers(0, 2)))
    return text.encode(), json.loads(text)["input"], _is_repeated(pairs)


def _written(value: object, colon: str) -> str:
    if isinstance(value, tuple):
        return "{" + ", ".join(json.dumps(name) + colon + _written(inner, colon) for name, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(inner, colon) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _is_repeated(pairs: Pairs) -> bool:
    contents = dict(pairs)["input"]
    entries = contents if isinstance(contents, list) else [contents]
    objects = [(pairs, FIELDS), *[(entry, CONTENT) for entry in entries if isinstance(entry, tuple)]]
    read = [[name for name, _ in each if name in fields] for each, fields in objects]
    return any(len(names) != len(set(names)) for names in read)


@given(bodies())
def test_fields_given_twice_are_found_however_they_are_written(body: tuple[bytes, object, bool]) -> None:
    """All repetitions are refused and nothing else, whatever stands in texts, in unknown fields and around them."""
    text, contents, repeated = body
    with pytest.raises(InvalidParameter, match="twice") if repeated else nullcontext():
        refuse_repetition(text, contents)


def test_a_body_nested_as_deeply_as_the_first_reader_takes_it_is_read_or_refused() -> None:
    """What is nested too deeply for one of the two readers is a refusal, at whichever depth that is."""
    for depth in range(100, 1100, 5):
        nested = b"[" * depth + b"]" * depth
        body = b'{"model": "m", "input": "a", "user": "model", "extra": %b}' % nested
        with suppress(InvalidParameter):
            read_request(body, RequestSettings())


VALUES = {
    "arrays": b"[],",
    "objects": b"{},",
    "strings": b'"ab",',
    "strings with escapes": b'"\\"\\\\",',
    "numbers": b"1.5,",
    "arrays in arrays": b"[[[[]]]],",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("field", [b"input", b"unknown"])
def test_millions_of_values_are_refused_before_they_become_objects(value: bytes, field: bytes) -> None:
    """Two copies of the body are all that such a request costs."""
    body = b'{"model": "m", "%b": [%b 1]}' % (field, value * (16_000_000 // len(value)))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _peak_bytes()
    with pytest.raises(InvalidParameter, match="more values than a request can have"):
        read_request(body, RequestSettings())
    assert _peak_bytes() - before < 60_000_000


def _peak_bytes() -> int:
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) * 1024


LARGE = {
    "32 texts full of brackets, quotes and backslashes": ['[{,"\\' * 20_000] * 32,
    "32 token arrays of the longest kind": [[1000] * 32_768] * 32,
    "content objects": [{"text": "[a], " * 20_000}] * 32,
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE.keys())
def test_large_requests_are_no_crowd(value: object) -> None:
    """What a request may have is taken, however large."""
    body = json.dumps({"model": "m", "input": value}).encode()
    assert len(body) > SMALL_BYTES
    refuse_crowd(body)
