"""JSON read strictly: what two readers could understand differently is refused; knows nothing of what it says."""

import json
from typing import TypeVar

import msgspec

from quartzite.errors import WeightsRefused
from quartzite.weights.wording import clipped, shown

# Entries of 150,000 tensors. The safetensors format allows headers of 100 MB; parsing hostile ones took 2.4 GB.
LARGEST_JSON_BYTES = 16 * 1024 * 1024

T = TypeVar("T")


def read_object(raw: bytes) -> dict[str, object]:
    """Return the JSON object in `raw`, UTF-8; raise WeightsRefused when it is no such thing or names a key twice."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as fault:
        raise WeightsRefused(f"is not valid JSON in UTF-8: {clipped(str(fault))}") from fault
    if not isinstance(value, dict):
        raise WeightsRefused("holds JSON, but no object")
    return value


def converted(value: object, form: type[T], what: str) -> T:
    """Return parsed JSON as an instance of `form`; raise WeightsRefused naming `what` when it does not fit."""
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as fault:
        raise WeightsRefused(f"{what} cannot be read: {clipped(str(fault))}") from fault


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique: dict[str, object] = {}
    for key, value in pairs:
        if key in unique:
            raise WeightsRefused(f"the key {shown(key)} stands twice")
        unique[key] = value
    return unique
