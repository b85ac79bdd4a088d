"""Whether a folder's tensors are those of an architecture; knows names and shapes, no files."""

import re
from collections.abc import Mapping, Sequence

from quartzite.errors import WeightsRefused
from quartzite.weights.tensor import Tensor
from quartzite.weights.wording import listed, shown


def match(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    prefixes: Sequence[str],
    ignorable: Sequence[str],
) -> dict[str, Tensor]:
    """Return the tensors of `expected` (name without prefix to shape), keyed by those names.

    All names of a folder share one of `prefixes`, the one under which most is found. `ignorable` are regular
    expressions for whole names, with or without the prefix, of tensors that may be there unused. Raises
    WeightsRefused listing every tensor that is missing, has another shape or is not expected at all.
    """
    prefix = max(prefixes, key=lambda candidate: sum(candidate + name in tensors for name in expected))
    found = {name: tensors[prefix + name] for name in expected if prefix + name in tensors}
    faults = [
        *_counted("missing", _missing(prefix, found, expected)),
        *_counted("of another shape", _misshapen(found, expected)),
        *_counted("not expected", _unexpected(tensors, prefix, expected, ignorable)),
    ]
    if faults:
        under = f"with the prefix {shown(prefix)}, out of {', '.join(map(repr, prefixes))}"
        raise WeightsRefused(f"the tensors are not those of the architecture ({under}): {'; '.join(faults)}")
    return found


def _missing(prefix: str, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [f"{shown(prefix + name)} {shape}" for name, shape in expected.items() if name not in found]


def _misshapen(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [
        f"{shown(tensor.name)} {tensor.shape} instead of {expected[name]}"
        for name, tensor in found.items()
        if tensor.shape != expected[name]
    ]


def _unexpected(
    tensors: Mapping[str, Tensor], prefix: str, expected: Mapping[str, tuple[int, ...]], ignorable: Sequence[str]
) -> list[str]:
    wanted = {prefix + name for name in expected}
    patterns = [re.compile(pattern) for pattern in ignorable]
    return [
        f"{shown(name)} {shown(tensor.shape)}"
        for name, tensor in tensors.items()
        if name not in wanted
        and not any(pattern.fullmatch(form) for pattern in patterns for form in (name, name.removeprefix(prefix)))
    ]


def _counted(fault: str, phrases: Sequence[str]) -> list[str]:
    return [f"{len(phrases)} {fault}: {listed(phrases)}"] if phrases else []
