"""From a Hugging Face folder to the card of a servable model; knows nothing of where the folder came from.

The service must compute what sentence-transformers computes from the same folder. What it would compute differently
is refused by name, never passed over.
"""

from pathlib import Path

from msgspec import Struct

from quartzite.errors import ModelRefused
from quartzite.registry.architecture import read_shape
from quartzite.registry.card import (
    AllowedDimensions,
    BertShape,
    ModelCard,
    Pooling,
    Qwen3Shape,
    Qwen3VlShape,
    Shape,
)
from quartzite.registry.catalog import CatalogEntry
from quartzite.registry.json_file import read_json_if_any
from quartzite.registry.modules import read_max_seq_length, read_pooling

# Sizes that the API document lists for the Qwen3 series.
QWEN3_DIMENSIONS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 2560, 4096)


class TokenizerConfig(Struct, frozen=True):
    """tokenizer_config.json; many say 10^30 for `model_max_length` and mean that they do not know."""

    model_max_length: int | float | None = None


def read_card(name: str, folder: Path, entry: CatalogEntry | None) -> ModelCard:
    """Return the card of the model in `folder`, to be served as `name`; weights are not looked at.

    `entry` is the catalogue's of that name, if it has one: its `max_tokens` is one more limit, its
    `allowed_dimensions` hold, and its pooling fills in for a missing modules.json.

    Raises ModelRefused for a folder that is incomplete, damaged, or asks for anything that would not be computed; the
    message names the file and what it asks for.
    """
    _check_complete(folder)
    shape = read_shape(folder / "config.json")
    pooling = read_pooling(folder, shape) or _unstated_pooling(folder, shape, entry)
    return ModelCard(
        name=name,
        folder=folder,
        shape=shape,
        pooling=pooling,
        max_tokens=_max_tokens(folder, shape, entry),
        allowed_dimensions=_allowed_dimensions(shape, entry),
    )


def _check_complete(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise ModelRefused(
            f"{folder} holds an adapter (adapter_config.json); merge it into its base model and serve the result"
        )
    if not (folder / "config.json").exists():
        raise ModelRefused(f"{folder} is no Hugging Face model folder: it has no config.json")
    if not (folder / "tokenizer.json").exists():
        raise ModelRefused(
            f"{folder} has no tokenizer.json; where transformers is installed, this makes one: "
            f"python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{folder}')"
            f".save_pretrained('{folder}')\""
        )


def _unstated_pooling(folder: Path, shape: Shape, entry: CatalogEntry | None) -> Pooling:
    """Without modules.json: the catalogue's, else the mean, as sentence-transformers does, but only for encoders.

    A decoder without modules.json is most likely a chat model; vectors of one would look fine and mean little.
    """
    if entry is not None:
        return entry.pooling
    if isinstance(shape, BertShape):
        return "mean"
    raise ModelRefused(
        f"{folder} has no modules.json, so nothing says that it is an embedding model and which pooling it needs; "
        "add the modules.json and 1_Pooling/config.json of the model it comes from"
    )


def _max_tokens(folder: Path, shape: Shape, entry: CatalogEntry | None) -> int:
    """The smallest limit that anything states, special tokens included."""
    limits = (
        entry.max_tokens if entry else None,
        read_max_seq_length(folder, shape),
        read_json_if_any(folder / "tokenizer_config.json", TokenizerConfig).model_max_length,
        shape.positions - (shape.position_offset if isinstance(shape, BertShape) else 0),
    )
    return int(min(limit for limit in limits if limit is not None and limit >= 1))


def _allowed_dimensions(shape: Shape, entry: CatalogEntry | None) -> AllowedDimensions:
    """Models that take images are trained for every size from the least of their series to the native one."""
    if isinstance(shape, Qwen3VlShape):
        return range(QWEN3_DIMENSIONS[0], shape.hidden + 1)
    series = QWEN3_DIMENSIONS if isinstance(shape, Qwen3Shape) else ()
    listed = entry.allowed_dimensions if entry else series
    return tuple(size for size in listed if size <= shape.hidden)
