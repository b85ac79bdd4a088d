"""Reading the JSON files of a model folder into typed values; knows nothing of their meaning."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from quartzite.errors import ModelRefused

T = TypeVar("T")


def read_json(file: Path, kind: type[T]) -> T:
    """Return the content of `file` as `kind`, keys that `kind` lacks left out.

    Raises ModelRefused naming the file when it cannot be read, is not JSON, or holds a value of another type.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except OSError as error:
        raise ModelRefused(f"cannot read {file}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise ModelRefused(f"{file}: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelRefused(f"{file} is not valid JSON: {error}") from error


def read_json_if_any(file: Path, kind: type[T]) -> T:
    """Return the content of `file` as `read_json` does, or `kind()` when there is no such file."""
    return read_json(file, kind) if file.exists() else kind()


def refuse_if_any(file: Path, faults: Iterable[str]) -> None:
    """Raise ModelRefused with all `faults` found in `file` in one message; do nothing when there are none."""
    found = list(faults)
    if found:
        raise ModelRefused(f"{file}: " + "; ".join(found))
