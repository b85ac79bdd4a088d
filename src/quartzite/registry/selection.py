"""Which files of a repository a model needs: never code, never a second form of the same weights.

Pure: works on names only.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from quartzite.errors import DownloadFailed
from quartzite.registry.modules import TRANSFORMER_FILES

DESCRIPTIONS = frozenset(
    {
        "adapter_config.json",
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *TRANSFORMER_FILES,
    }
)
POOLING = re.compile(r"\d+_Pooling/config\.json")

# Stem and ending of the weights, the preferred form first.
FORMATS = (("model", "safetensors"), ("pytorch_model", "bin"))


@dataclass(frozen=True, slots=True)
class Selection:
    """Paths of the files needed: `descriptions` say how the model is computed, `weights` with which numbers."""

    descriptions: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Both."""
        return self.descriptions + self.weights


def select(paths: Collection[str], source: str) -> Selection:
    """Choose from the `paths` that `source` (a name for messages) holds.

    Raises DownloadFailed when there are no weights in a known form, or only some of their parts.
    """
    descriptions = sorted(path for path in paths if path in DESCRIPTIONS or POOLING.fullmatch(path))
    for stem, ending in FORMATS:
        single = f"{stem}.{ending}"
        if single in paths:
            return Selection(tuple(descriptions), (single,))
        if f"{single}.index.json" in paths:
            return Selection(tuple(descriptions), (f"{single}.index.json", *_parts(paths, stem, ending, source)))
    wanted = " or ".join(f"{stem}.{ending}" for stem, ending in FORMATS)
    raise DownloadFailed(f"{source} holds no weights as {wanted}, whole or in parts")


def _parts(paths: Collection[str], stem: str, ending: str, source: str) -> list[str]:
    named = re.compile(rf"{re.escape(stem)}-\d+-of-(\d+)\.{ending}")
    parts = {path: int(match[1]) for path in sorted(paths) if (match := named.fullmatch(path))}
    if not parts or set(parts.values()) != {len(parts)}:
        raise DownloadFailed(f"{source} holds {len(parts)} of {max(parts.values(), default=1)} parts of its weights")
    return list(parts)
