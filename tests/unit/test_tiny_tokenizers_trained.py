"""The tiny tokenizers are built as the real ones are, and come out of the committed script."""

import json

import pytest
from tokenizers import Tokenizer

import make_tokenizers


@pytest.mark.parametrize("name", make_tokenizers.TRAINED)
def test_the_script_reproduces_the_file(name: str) -> None:
    """Training again on the committed corpus gives the committed tokenizer."""
    corpus = (make_tokenizers.FOLDER / "corpus.txt").read_text(encoding="utf-8").splitlines()
    committed = json.loads((make_tokenizers.FOLDER / name).read_text(encoding="utf-8"))
    assert make_tokenizers.same(committed, json.loads(make_tokenizers.TRAINED[name](corpus).to_str()))


def test_a_changed_file_is_noticed() -> None:
    """A moved piece, a shifted score and another normaliser are each seen as a difference."""
    file = (make_tokenizers.FOLDER / "unigram.json").read_text(encoding="utf-8")
    moved, scored, normalised = (json.loads(file) for _ in range(3))
    moved["model"]["vocab"][10:12] = reversed(moved["model"]["vocab"][10:12])
    scored["model"]["vocab"][10][1] += 0.1
    normalised["normalizer"] = None
    changed = [make_tokenizers.same(json.loads(file), other) for other in (moved, scored, normalised)]
    assert changed == [False, False, False]
    assert make_tokenizers.same(json.loads(file), json.loads(file))


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("wordpiece.json", {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}),
        ("unigram.json", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 1009}),
        ("bytelevel.json", {"<|endoftext|>": 1200, "<|im_start|>": 1201, "<|im_end|>": 1202}),
    ],
)
def test_special_tokens_stand_where_the_real_ones_do(name: str, ids: dict[str, int]) -> None:
    """First ids for the encoders, the ids after the last piece for Qwen3; every text is framed by them."""
    tokenizer = Tokenizer.from_file(str(make_tokenizers.FOLDER / name))
    assert {token: tokenizer.token_to_id(token) for token in ids} == ids
    frame = {"wordpiece.json": [101, 102], "unigram.json": [0, 2], "bytelevel.json": [1200]}
    assert tokenizer.encode("").ids == frame[name]
