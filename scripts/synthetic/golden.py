"""The golden cases: tiny models made anew from their seeds, and the stored vectors they must give."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthetic.blueprint import Blueprint, Pooling, scaled
from synthetic.folder import stored_tensors
from synthetic.known import KNOWN

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
TEXTS = GOLDEN / "texts.json"


@dataclass(frozen=True, slots=True, eq=False)
class GoldenVectors:
    """What a reference run gave for N texts, in order.

    `ids` are the token ids, special tokens included, cut on the right at the model's limit; `vectors` float32 (N, D).
    `weights_sha256` names the weights that gave them.
    """

    ids: list[list[int]]
    vectors: NDArray[np.float32]
    weights_sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class GoldenCase:
    """One model folder, N texts, and what the reference gives for them.

    `ids` as in GoldenVectors; `vectors` float32 (N, D) are pooled as `pooling` says, and not normalised unless the
    model is real.
    """

    name: str
    card_folder: Path
    texts: list[str]
    ids: list[list[int]]
    vectors: NDArray[np.float32]
    pooling: Pooling


def read_texts(kind: str = "mixed") -> list[str]:
    """Return the shared texts: `mixed` of all scripts and lengths, or `english` for the real MiniLM."""
    texts: dict[str, list[str]] = json.loads(TEXTS.read_text(encoding="utf-8"))
    return texts[kind]


def golden_file(name: str) -> Path:
    """Return where the vectors of a case are stored."""
    return GOLDEN / f"{name}.npz"


def save_vectors(file: Path, golden: GoldenVectors) -> None:
    """Store vectors and ids; the bytes are the same for the same content."""
    np.savez_compressed(
        file,
        ids=np.concatenate([np.array(ids, np.int32) for ids in golden.ids]),
        lengths=np.array([len(ids) for ids in golden.ids], np.int32),
        vectors=golden.vectors,
        weights_sha256=np.array(golden.weights_sha256),
    )


def load_vectors(file: Path) -> GoldenVectors:
    """Read what `save_vectors` stored."""
    with np.load(file, allow_pickle=False) as stored:
        parts = np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])
        return GoldenVectors([part.tolist() for part in parts], stored["vectors"], str(stored["weights_sha256"]))


def weights_sha256(blueprint: Blueprint) -> str:
    """Return the SHA-256 of all tensors: names, dtypes, shapes and bytes, whatever file they are in."""
    digest = hashlib.sha256()
    for tensor in stored_tensors(blueprint):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        for chunk in tensor.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def _tiny(like: str, sizes: Mapping[str, int], **changes: Any) -> Blueprint:
    """Return a known model at test size."""
    return replace(scaled(KNOWN[like], sizes), **changes)


def _tiny_xlmr(like: str, sizes: Mapping[str, int], **changes: Any) -> Blueprint:
    """Return a tiny XLM-R that transformers reads with the tokenizer.json as it stands.

    Its XLMRobertaTokenizer takes the vocabulary from that file but rebuilds the normaliser from the table that only
    the real files carry.
    """
    blueprint = _tiny(like, {"vocabulary": UNIGRAM_VOCABULARY, **sizes}, **changes)
    tokenizer_config = {**blueprint.tokenizer_config, "tokenizer_class": "PreTrainedTokenizerFast"}
    return replace(blueprint, tokenizer_config=tokenizer_config)


WORDPIECE_VOCABULARY = 1188
UNIGRAM_VOCABULARY = 1010
BYTE_LEVEL_VOCABULARY = 1203
BERT = {"layers": 3, "hidden": 64, "heads": 4, "intermediate": 160, "vocabulary": WORDPIECE_VOCABULARY}
QWEN3 = {
    "layers": 3,
    "hidden": 64,
    "heads": 4,
    "key_value_heads": 2,
    "head_size": 32,
    "intermediate": 160,
    "vocabulary": BYTE_LEVEL_VOCABULARY,
    "positions": 4096,
}

CASES: Mapping[str, Blueprint] = {
    "bert-cls": _tiny("BAAI/bge-large-en-v1.5", BERT, seed=1),
    "bert-mean": _tiny(
        "sentence-transformers/all-MiniLM-L6-v2", BERT | {"layers": 2, "hidden": 96, "heads": 3}, dtype="f16", seed=2
    ),
    "bert-max": _tiny("BAAI/bge-large-en-v1.5", BERT, pooling="max", extras=frozenset(), seed=3),
    "bert-prefixed": _tiny(
        "BAAI/bge-large-zh-v1.5", BERT | {"heads": 2}, prefix="bert.", file_format="safetensors", seed=4
    ),
    "bert-bin": _tiny("BAAI/bge-large-zh-v1.5", BERT, seed=5),
    "xlmr-cls": _tiny_xlmr(
        "netease-youdao/bce-embedding-base_v1",
        {"layers": 3, "hidden": 64, "heads": 2, "intermediate": 160},
        file_format="safetensors",
        seed=6,
    ),
    "xlmr-bin": _tiny_xlmr("BAAI/bge-m3", {"layers": 2, "hidden": 64, "heads": 4, "intermediate": 128}, seed=7),
    "qwen3": _tiny("Qwen/Qwen3-Embedding-0.6B", QWEN3, dtype="f32", seed=8),
    "qwen3-prefixed": _tiny(
        "Qwen/Qwen3-Embedding-8B",
        QWEN3 | {"head_size": 16},
        prefix="model.",
        extras=frozenset({"lm_head"}),
        dtype="f32",
        file_format="safetensors",
        seed=9,
    ),
    "qwen3-sharded": _tiny(
        "Qwen/Qwen3-Embedding-4B", QWEN3 | {"layers": 2, "hidden": 96}, shard_bytes=150_000, seed=10
    ),
}
