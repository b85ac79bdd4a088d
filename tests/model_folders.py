"""Model folders as they are published, small enough to write in a test: descriptions only, weights of a few bytes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quartzite.registry.card import ModelCard
from quartzite.registry.catalog import CatalogEntry
from quartzite.registry.folder import read_card

WEIGHTS = bytes(range(256)) * 8
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()

BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
}

XLM_R: dict[str, Any] = BERT | {
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 96,
    "vocab_size": 151669,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 1000000,
    "rope_scaling": None,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
}

QWEN3_VL: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "image_token_id": 95,
    "text_config": {
        **{key: value for key, value in QWEN3.items() if key not in ("architectures", "sliding_window")},
        "model_type": "qwen3_vl_text",
        "num_hidden_layers": 3,
        "vocab_size": 100,
        "rope_theta": 5000000,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
    },
    "vision_config": {
        "deepstack_visual_indexes": [0, 2, 3],
        "depth": 4,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 48,
        "in_channels": 3,
        "intermediate_size": 80,
        "model_type": "qwen3_vl",
        "num_heads": 3,
        "num_position_embeddings": 36,
        "out_hidden_size": 128,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
POOLING_FLAGS = {
    "word_embedding_dimension": 32,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}


QWEN3_POOLING = {"word_embedding_dimension": 128, "pooling_mode_lasttoken": True, "include_prompt": True}


def modules(*kinds: str) -> list[dict[str, Any]]:
    """The modules.json of a chain, spelled as versions 2 to 4 of sentence-transformers do."""
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def descriptions(config: Mapping[str, Any] = BERT, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Files of a whole folder but for its weights, by path; `changes` replace or add some, None leaves one out."""
    hidden = config.get("text_config", config)["hidden_size"]
    files = {
        "config.json": config,
        "modules.json": modules("Transformer", "Pooling", "Normalize"),
        "1_Pooling/config.json": POOLING_FLAGS | {"word_embedding_dimension": hidden},
        "tokenizer.json": {"version": "1.0", "normalizer": {"type": "BertNormalizer", "lowercase": True}},
    }
    return {path: content for path, content in {**files, **(changes or {})}.items() if content is not None}


def as_bytes(files: Mapping[str, Any]) -> dict[str, bytes]:
    """The same files as they lie on a disk: JSON unless given as bytes."""
    return {path: data if isinstance(data, bytes) else json.dumps(data).encode() for path, data in files.items()}


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    """Write `files` into `folder` and return it."""
    for path, data in as_bytes(files).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def model_files(
    weights: tuple[str, ...] = ("model.safetensors",),
    config: Mapping[str, Any] = BERT,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """A whole repository: `descriptions`, and under each name in `weights` bytes of its own, first `WEIGHTS`."""
    return as_bytes(descriptions(config, changes) | {path: WEIGHTS[i:] for i, path in enumerate(weights)})


def card_of(
    folder: Path,
    config: Mapping[str, Any] = BERT,
    files: Mapping[str, Any] | None = None,
    entry: CatalogEntry | None = None,
) -> ModelCard:
    """The card of a folder with `config`, its other files changed by `files`."""
    return read_card("tests/model", write(folder, descriptions(config, files)), entry)


def qwen3_card_of(folder: Path, **changes: Any) -> ModelCard:
    """The card of a Qwen3 folder with `changes` in its config.json."""
    return card_of(folder, QWEN3 | changes, {"1_Pooling/config.json": QWEN3_POOLING})


def qwen3_vl_card_of(
    folder: Path,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
    entry: CatalogEntry | None = None,
) -> ModelCard:
    """The card of a Qwen3-VL folder with changes in the two parts of its config.json, its other files changed too."""
    parts = {
        "text_config": QWEN3_VL["text_config"] | (text or {}),
        "vision_config": QWEN3_VL["vision_config"] | (vision or {}),
    }
    return card_of(folder, QWEN3_VL | parts, {"1_Pooling/config.json": QWEN3_POOLING} | (files or {}), entry)
