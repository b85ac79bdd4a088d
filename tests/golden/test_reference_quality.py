"""The golden vectors would show a mistake: they are far apart, of all lengths, and of the weights that are made."""

import hashlib
import json

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from synthetic.golden import CASES, GoldenCase, golden_file, load_vectors, weights_sha256


def max_tokens(case: GoldenCase) -> int:
    """Return the longest input of the model, as the blueprint of its folder says."""
    blueprint = CASES[case.name]
    positions: int = blueprint.config["max_position_embeddings"] - blueprint.position_offset
    stated: int = (blueprint.sentence_bert_config or {}).get("max_seq_length", positions)
    return min(positions, stated)


def mean_pairwise_cosine(vectors: NDArray[np.float32]) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = np.triu_indices(len(unit), k=1)
    return float((unit @ unit.T)[pairs].mean())


def library_ids(case: GoldenCase, limit: int) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(case.card_folder / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    tokenizer.no_padding()
    return [tokenizer.encode(text).ids for text in case.texts]


def test_vectors_of_different_texts_differ(case: GoldenCase) -> None:
    """The mean cosine of two texts is under 0.8, and so it is among the longest ten alone."""
    longest = sorted(range(len(case.ids)), key=lambda item: len(case.ids[item]))[-10:]
    assert mean_pairwise_cosine(case.vectors) < 0.8
    assert mean_pairwise_cosine(case.vectors[longest]) < 0.95


def test_the_ids_are_those_of_the_tokenizer_file(case: GoldenCase) -> None:
    """The ids that transformers gave are those that the tokenizer.json in the folder gives."""
    assert library_ids(case, max_tokens(case)) == case.ids


def test_the_weights_are_those_of_the_reference_run(case: GoldenCase) -> None:
    """The weights made now are bit for bit those whose vectors are stored."""
    assert weights_sha256(CASES[case.name]) == load_vectors(golden_file(case.name)).weights_sha256


def test_every_length_occurs(case: GoldenCase) -> None:
    """There is a vector for each text; items reach from nothing but special tokens to the longest allowed."""
    lengths = [len(ids) for ids in case.ids]
    assert len(case.texts) == len(lengths) == len(case.vectors)
    assert min(lengths) == (1 if case.pooling == "last" else 2)
    assert max(lengths) == max_tokens(case)
    assert {2**power for power in range(2, 8)} <= {1 << length.bit_length() for length in lengths}


def test_the_vectors_are_float32_of_the_hidden_size(case: GoldenCase) -> None:
    """Vectors are finite float32 as wide as the model, and not normalised."""
    config = json.loads((case.card_folder / "config.json").read_text(encoding="utf-8"))
    assert case.vectors.dtype == np.float32
    assert case.vectors.shape[1] == config["hidden_size"]
    assert np.isfinite(case.vectors).all()
    assert np.linalg.norm(case.vectors, axis=1).min() > 2


def test_the_real_model_is_the_one_of_the_reference_run(minilm_case: GoldenCase) -> None:
    """The MiniLM weights and tokenizer in its package are those whose vectors are stored."""
    weights = (minilm_case.card_folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == load_vectors(golden_file("minilm")).weights_sha256
    assert library_ids(minilm_case, 256) == minilm_case.ids


def test_the_real_vectors_differ_and_have_unit_length(minilm_case: GoldenCase) -> None:
    """The stored MiniLM vectors are normalised, of texts far apart, some longer than its 256 tokens."""
    assert np.allclose(np.linalg.norm(minilm_case.vectors, axis=1), 1, atol=1e-5)
    assert mean_pairwise_cosine(minilm_case.vectors) < 0.8
    assert sum(len(ids) == 256 for ids in minilm_case.ids) >= 3
