"""The chain of sentence-transformers modules a folder asks for: what is done to a text before and after the network.

Follows sentence-transformers 2 to 6. The service always normalises, so a missing Normalize is no difference. Knows
nothing of the network itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from quartzite.registry.card import Pooling, Qwen3VlShape, Shape
from quartzite.registry.json_file import read_json, read_json_if_any, refuse_if_any

POOLINGS: Mapping[str, Pooling] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}

# Older folders name the file after the network.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)


DEFAULT_INSTRUCTION = "Represent the user's input."
"""The system turn of models that take images, where a request gives none."""
# Such models are asked through a chat template, to which the library has to be told to add the assistant's turn.
CHAT_TEMPLATE = {"chat_template": {"add_generation_prompt": True}}


class Module(Struct, frozen=True):
    """One entry of modules.json."""

    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """Class name of a module of the library, the whole dotted name of any other."""
        return self.type.rpartition(".")[2] if self.type.startswith("sentence_transformers.") else self.type


class PoolingConfig(Struct, frozen=True):
    """1_Pooling/config.json: one flag per mode until version 5, `pooling_mode` since."""

    word_embedding_dimension: int | None = None
    embedding_dimension: int | None = None
    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    @property
    def modes(self) -> list[str]:
        """Names of all modes asked for; the library takes the mean where nothing is said."""
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        flags = {
            "cls": self.pooling_mode_cls_token,
            "max": self.pooling_mode_max_tokens,
            "mean": self.pooling_mode_mean_tokens,
            "mean_sqrt_len_tokens": self.pooling_mode_mean_sqrt_len_tokens,
            "weightedmean": self.pooling_mode_weightedmean_tokens,
            "lasttoken": self.pooling_mode_lasttoken,
        }
        return [mode for mode, asked in flags.items() if asked] or ["mean"]


class PromptConfig(Struct, frozen=True):
    """config_sentence_transformers.json."""

    model_type: str = "SentenceTransformer"
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    truncate_dim: int | None = None


class TransformerConfig(Struct, frozen=True):
    """sentence_bert_config.json."""

    max_seq_length: int | None = None
    do_lower_case: bool = False
    transformer_task: str = "feature-extraction"
    modality_config: dict[str, dict[str, Any]] | None = None
    processing_kwargs: dict[str, Any] | None = None
    config_args: dict[str, Any] | None = None
    config_kwargs: dict[str, Any] | None = None


class Normalizer(Struct, frozen=True):
    """The `normalizer` of a tokenizer.json."""

    type: str = ""
    lowercase: bool = False
    normalizers: "list[Normalizer]" = []

    @property
    def lowers(self) -> bool:
        """Whether it turns text to lower case."""
        return self.lowercase or self.type == "Lowercase" or any(part.lowers for part in self.normalizers)


class TokenizerFile(Struct, frozen=True):
    """tokenizer.json, as far as it is looked at here."""

    normalizer: Normalizer | None = None


def read_pooling(folder: Path, shape: Shape) -> Pooling | None:
    """Return the pooling that `folder` asks for, None when it has no modules.json and so says nothing.

    `shape` is that of its network. Raises ModelRefused for modules, poolings, prompts and dimensions that would not
    be honoured.
    """
    _check_prompts(folder / "config_sentence_transformers.json", isinstance(shape, Qwen3VlShape))
    file = folder / "modules.json"
    if not file.exists():
        return None
    modules = read_json(file, list[Module])
    refuse_if_any(file, _chain_faults(modules))
    return _pooling(folder / modules[1].path / "config.json", shape.hidden)


def read_max_seq_length(folder: Path, shape: Shape) -> int | None:
    """Return the token limit that the Transformer module of a folder, whose network has `shape`, states, if any.

    Raises ModelRefused for anything in that file that would not be honoured.
    """
    named = [folder / name for name in TRANSFORMER_FILES]
    file = next((file for file in named if file.exists()), named[0])
    config = read_json_if_any(file, TransformerConfig)
    takes_images = isinstance(shape, Qwen3VlShape)
    refuse_if_any(file, _transformer_faults(config, folder / "tokenizer.json", takes_images))
    return config.max_seq_length


def _chain_faults(modules: Sequence[Module]) -> Iterator[str]:
    kinds = [module.kind for module in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        yield f"the module {', '.join(unknown)} is not computed, only Transformer, Pooling and Normalize are"
    elif kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        yield f"the modules stand as {', '.join(kinds) or 'none'}; Transformer, Pooling, Normalize is expected"
    elif modules[0].path:
        yield f"the Transformer stands in the sub-folder {modules[0].path!r}; move its files to the top of the folder"


def _pooling(file: Path, dimensions: int) -> Pooling:
    config = read_json(file, PoolingConfig)
    refuse_if_any(file, _pooling_faults(config, dimensions))
    return POOLINGS[config.modes[0]]


def _pooling_faults(config: PoolingConfig, dimensions: int) -> Iterator[str]:
    if len(config.modes) != 1:
        yield f"several poolings at once ({', '.join(config.modes)}) are not computed, only one is"
    for mode in config.modes:
        if mode not in POOLINGS:
            yield f"the pooling {mode!r} is not computed, only {', '.join(POOLINGS)} are"
    stated = config.embedding_dimension or config.word_embedding_dimension or dimensions
    if stated != dimensions:
        yield f"it pools {stated} dimensions, the network has {dimensions}"


def _check_prompts(file: Path, takes_images: bool) -> None:
    config = read_json_if_any(file, PromptConfig)
    refuse_if_any(file, _prompt_faults(config, "" if not takes_images else DEFAULT_INSTRUCTION))


def _prompt_faults(config: PromptConfig, given: str) -> Iterator[str]:
    """A prompt that names itself the default would be put before every text; texts are embedded as they are sent.

    `given` is the one that is there anyway: the system turn of models that take images.
    """
    name = config.default_prompt_name
    if name is not None and (config.prompts or {}).get(name, "undefined") not in (None, "", given):
        yield (
            f"default_prompt_name {name!r} asks to put a prompt before every text, which is not done; "
            "set it to null and let clients send the prompt"
        )
    if config.model_type != "SentenceTransformer":
        yield f"a {config.model_type} is not served, only a SentenceTransformer is"
    if config.truncate_dim is not None:
        yield f"truncate_dim {config.truncate_dim} is not honoured; set it to null and let clients send `dimensions`"


def _transformer_faults(config: TransformerConfig, tokenizer: Path, takes_images: bool) -> Iterator[str]:
    if config.transformer_task != "feature-extraction":
        yield f"transformer_task {config.transformer_task!r} is not computed, only 'feature-extraction' is"
    if config.modality_config is not None and not _plain(config.modality_config, takes_images):
        yield "modality_config does not take text straight to last_hidden_state, which is all that is computed"
    for name in ("processing_kwargs", "config_args", "config_kwargs"):
        if getattr(config, name) and not (takes_images and getattr(config, name) == CHAT_TEMPLATE):
            yield f"{name} {getattr(config, name)} is not honoured"
    if config.do_lower_case and not _lowers(tokenizer):
        yield f"do_lower_case is set, but {tokenizer.name} keeps upper case; give it a Lowercase normalizer"


def _plain(modalities: Mapping[str, Mapping[str, Any]], takes_images: bool) -> bool:
    """Whether texts, and the other modalities of models that take images, go straight to the last hidden states."""
    asked = modalities.values() if takes_images else [modalities.get("text", {})]
    ways = [(way.get("method"), way.get("method_output_name")) for way in asked]
    return all(way == ("forward", "last_hidden_state") for way in ways)


def _lowers(tokenizer: Path) -> bool:
    normalizer = read_json(tokenizer, TokenizerFile).normalizer
    return normalizer is not None and normalizer.lowers
