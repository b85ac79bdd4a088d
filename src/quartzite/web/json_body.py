"""What a JSON body may not have although it is valid JSON: fields given twice, and values without end.

A reader of JSON takes both in silence: of a field given twice it keeps the last, and 32 MB of `[],[],[],` become a
gigabyte of objects. Both checks are cheap for the bodies that people send, and exact for those that look odd.
"""

import json
import re
from collections.abc import Sequence

from quartzite.errors import InvalidParameter

FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "truncate", "user", "instruction"})
CONTENT = frozenset({"text", "image", "instruction"})
SMALL_BYTES = 1024 * 1024
"""A body up to here cannot hold enough values to do harm."""
MOST_VALUES = 2_000_000
"""In one body: more than the tokens of 32 items as long as any model takes them."""
MOST_GROUPS = 100_000
"""Strings, arrays and objects in one body, which take some hundred bytes each."""

_NAMES = re.compile(f'"({"|".join(sorted(FIELDS | CONTENT))})"'.encode("ascii"))
_SPELT_OUT = re.compile(rb"\\u00[4-7]")  # a letter that need not be escaped: it could hide a name
_STRING = re.compile(rb'"[^"]*"')


def refuse_crowd(body: bytes | bytearray) -> None:
    """Raise InvalidParameter for a body with more values than a request can use, before they become objects."""
    if len(body) <= SMALL_BYTES or body.count(b",") + body.count(b"[") + body.count(b"{") < MOST_GROUPS:
        return
    bare, strings = _STRING.subn(b"", body.replace(b"\\\\", b"").replace(b'\\"', b""), MOST_GROUPS)
    groups = strings + bare.count(b"[") + bare.count(b"{")
    if groups >= MOST_GROUPS or bare.count(b",") >= MOST_VALUES:
        raise InvalidParameter("the body holds more values than a request can have; send fewer items.", "body")


def refuse_repetition(body: bytes | bytearray, contents: object) -> None:
    """Raise InvalidParameter for a field that stands twice in `body`, valid JSON whose `input` is `contents`.

    Looked at are the fields of a request and those of its content objects; what nobody reads may stand there twice.
    """
    names = _NAMES.findall(body)
    plain = len(names) == len(set(names)) or _is_plain(names, contents)
    if not plain or _SPELT_OUT.search(body):
        _name_repetition(body)


def _is_plain(names: Sequence[bytes], contents: object) -> bool:
    """Tell whether names stand in a body as often as where each object has each of its fields once.

    A name that requests and their contents share may be either's: it is counted on to stand there once.
    """
    objects = [entry for entry in (contents if isinstance(contents, list) else [contents]) if isinstance(entry, dict)]
    fields = FIELDS.intersection(name.decode("ascii") for name in set(names))
    expected = len(fields) + sum(len((CONTENT - FIELDS) & entry.keys()) for entry in objects)
    return len(names) == expected


class _Pairs(list[tuple[str, object]]):
    """An object of JSON with all its fields, those that stand there twice too."""


def _name_repetition(body: bytes | bytearray) -> None:
    try:
        fields: _Pairs = json.loads(body, object_pairs_hook=_Pairs, parse_int=len, parse_float=len)
    except RecursionError:
        raise InvalidParameter("the body is nested too deeply.", "body") from None
    if name := _repeated(fields, FIELDS):
        raise InvalidParameter(f"`{name}` is given twice.", name)
    contents = dict(fields)["input"]
    entries = enumerate(contents) if type(contents) is list else [(None, contents)]
    for index, entry in entries:
        if isinstance(entry, _Pairs) and (name := _repeated(entry, CONTENT)):
            pointer = "input" if index is None else f"input[{index}]"
            raise InvalidParameter(f"`{pointer}` has `{name}` twice.", pointer)


def _repeated(fields: _Pairs, read: frozenset[str]) -> str | None:
    names = [name for name, _ in fields if name in read]
    return next((name for name in names if names.count(name) > 1), None)
