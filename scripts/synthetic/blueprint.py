"""What a model folder is to hold; knows nothing of tensors or files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Config = Mapping[str, Any]
Dtype = Literal["f32", "f16", "bf16"]
FileFormat = Literal["safetensors", "sharded", "bin"]
Pooling = Literal["cls", "mean", "max", "last"]
TokenizerKind = Literal["wordpiece", "unigram", "bytelevel", "chat"]
Extra = Literal["pooler", "position_ids", "lm_head"]

SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}
VISION_SIZES = {
    "vision_layers": "depth",
    "vision_hidden": "hidden_size",
    "vision_heads": "num_heads",
    "vision_intermediate": "intermediate_size",
    "vision_positions": "num_position_embeddings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model folder yet to be made.

    `config`, `tokenizer_config`, `sentence_bert_config` (None: no such file) and `sentence_transformers_config` are
    the contents of the files of those names; `extras` are tensors in the file that no embedding needs; the tensor
    names start with `prefix`, except those of `lm_head`; `shard_bytes` is the most that one file of a sharded
    folder may hold. Equal seeds give equal weights whatever prefix and format.
    """

    config: Config
    pooling: Pooling
    tokenizer: TokenizerKind
    tokenizer_config: Config
    sentence_bert_config: Config | None
    sentence_transformers_config: Config
    extras: frozenset[Extra] = frozenset()
    prefix: str = ""
    dtype: Dtype = "f32"
    file_format: FileFormat = "safetensors"
    shard_bytes: int = 4_900_000_000
    seed: int = 0

    @property
    def text_config(self) -> Config:
        """What the config says of the text tower, which for most models is all of it."""
        config: Config = self.config.get("text_config", self.config)
        return config

    @property
    def position_offset(self) -> int:
        """Position number of the first token: padding id + 1 for XLM-R, else 0."""
        return self.config["pad_token_id"] + 1 if self.config["model_type"] == "xlm-roberta" else 0


def scaled(blueprint: Blueprint, sizes: Mapping[str, int]) -> Blueprint:
    """Return the blueprint with other `sizes`, and with length limits and special ids that fit them.

    The keys are those of SIZES, and of VISION_SIZES where there is a vision tower.
    """
    text = {**blueprint.text_config, **{SIZES[name]: size for name, size in sizes.items() if name in SIZES}}
    last = text["vocab_size"] - 1
    text |= {key: min(text[key], last) for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in text}
    config = _scaled_vision(blueprint.config, text, sizes) if "vision_config" in blueprint.config else text
    resized = replace(blueprint, config=config)
    longest = text["max_position_embeddings"] - resized.position_offset
    return replace(
        resized,
        tokenizer_config=_limited(blueprint.tokenizer_config, "model_max_length", longest),
        sentence_bert_config=blueprint.sentence_bert_config
        and _limited(blueprint.sentence_bert_config, "max_seq_length", longest),
    )


def _scaled_vision(config: Config, text: Config, sizes: Mapping[str, int]) -> Config:
    """Put a scaled text tower into the config of a model that sees, and fit to it what hangs on its sizes."""
    own = {VISION_SIZES[name]: size for name, size in sizes.items() if name in VISION_SIZES}
    before = config["vision_config"]
    vision = {**before, **own, "out_hidden_size": text["hidden_size"]}
    vision["deepstack_visual_indexes"] = [
        layer * vision["depth"] // before["depth"] for layer in before["deepstack_visual_indexes"]
    ]
    frequencies = text["head_dim"] // 2
    by_side = 20 * frequencies // 64
    rope = {**text["rope_scaling"], "mrope_section": [frequencies - 2 * by_side, by_side, by_side]}
    marks = {key: config[key] for key in config if key.endswith("_token_id")}
    beyond = max(0, max(marks.values()) + 1 - text["vocab_size"])
    return {
        **config,
        **{key: number - beyond for key, number in marks.items()},
        "text_config": {**text, "rope_scaling": rope},
        "vision_config": vision,
    }


def _limited(config: Config, key: str, longest: int) -> Config:
    """Lower a length limit to what the positions allow; a limit beyond 10^9 says that there is none, and stays."""
    limit: int = config.get(key, 10**30)
    return config if limit > 10**9 else {**config, key: min(limit, longest)}
