"""Train the tiny tokenizers of the tests on their corpus; knows nothing of models.

Each is built as a real one is (those of bge-large-zh-v1.5, bge-m3 and Qwen3-Embedding) with a vocabulary of about a
thousand pieces. Run with the project's own environment:

    python scripts/make_tokenizers.py            # write tests/fixtures/tokenizers/*.json
    python scripts/make_tokenizers.py --check    # fail when a file would change
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

Description = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "tokenizers"
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BERT_SPECIALS = ["[PAD]", *(f"[unused{n}]" for n in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
XLMR_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_SHAPES = [f"<|{shape}_{end}|>" for shape in ("object_ref", "box", "quad") for end in ("start", "end")]
QWEN_VISION = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]


def main() -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(description="Train the tiny tokenizers of the tests.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file would change")
    check = parser.parse_args().check
    corpus = (FOLDER / "corpus.txt").read_text(encoding="utf-8").splitlines()
    changed = [name for name, train in TRAINED.items() if not _settle(FOLDER / name, train(corpus), write=not check)]
    if check and changed:
        print(f"not as committed: {', '.join(changed)}; run scripts/make_tokenizers.py", file=sys.stderr)
    return int(check and bool(changed))


def train_wordpiece(corpus: list[str]) -> Tokenizer:
    """Train a BERT WordPiece tokenizer whose special tokens have the ids of the real ones: 0, 100 to 103.

    The library's own WordPiece trainer draws another vocabulary at every run; so the pieces are those into which a
    BPE, which is reproducible, cuts the words of the corpus.
    """
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    bpe.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=1200, show_progress=False))
    pieces = [*BERT_SPECIALS, *_wordpieces(bpe, corpus)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = bpe.normalizer
    tokenizer.pre_tokenizer = bpe.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([token for token in BERT_SPECIALS if not token.startswith("[unused")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def train_unigram(corpus: list[str]) -> Tokenizer:
    """Train an XLM-R Unigram tokenizer: ids 0 to 3 and the last one (`<mask>`) as in the real ones.

    NFKC stands where the real files carry a compiled table of much the same mappings.
    """
    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    learner.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=1200, show_progress=False))
    learnt: list[tuple[str, float]] = sorted(map(tuple, json.loads(learner.to_str())["model"]["vocab"]))
    tokenizer = Tokenizer(models.Unigram([*((token, 0.0) for token in XLMR_SPECIALS), *learnt], unk_id=3))
    tokenizer.normalizer = learner.normalizer
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([*XLMR_SPECIALS, AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def train_chat(corpus: list[str]) -> Tokenizer:
    """Train a Qwen3-VL-Embedding tokenizer: the byte-level one with all the special tokens, in their order."""
    tokenizer = train_byte_level(corpus)
    more = [*QWEN_SHAPES, *QWEN_VISION]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in more])
    return tokenizer


def train_byte_level(corpus: list[str]) -> Tokenizer:
    """Train a Qwen3-Embedding byte-level BPE tokenizer: no start token, `<|endoftext|>` closes every text."""
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in QWEN_SPECIALS])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
            processors.TemplateProcessing(
                single="$A <|endoftext|>",
                pair="$A $B <|endoftext|>",
                special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))],
            ),
        ]
    )
    return tokenizer


TRAINED: dict[str, Callable[[list[str]], Tokenizer]] = {
    "wordpiece.json": train_wordpiece,
    "unigram.json": train_unigram,
    "bytelevel.json": train_byte_level,
    "chat.json": train_chat,
}


def _wordpieces(bpe: Tokenizer, corpus: list[str]) -> list[str]:
    """Return the pieces of the corpus' words, those inside a word marked `##`, and every letter in both forms."""
    pieces = set()
    for line in corpus:
        encoding = bpe.encode(line)
        starts = {0, *(i for i in range(1, len(encoding)) if encoding.word_ids[i] != encoding.word_ids[i - 1])}
        pieces |= {token if i in starts else f"##{token}" for i, token in enumerate(encoding.tokens)}
    letters = {letter for piece in pieces for letter in piece if piece != "##"}
    return sorted(pieces | letters | {f"##{letter}" for letter in letters if letter.isascii() and letter.isalnum()})


def _settle(file: Path, tokenizer: Tokenizer, *, write: bool) -> bool:
    """Return whether the file holds the tokenizer already; write it otherwise, when allowed."""
    description = json.loads(tokenizer.to_str())
    if file.exists() and same(json.loads(file.read_text(encoding="utf-8")), description):
        return True
    if write:
        file.write_text(json.dumps(description, ensure_ascii=False) + "\n", encoding="utf-8")
    return False


def same(committed: Description, trained: Description) -> bool:
    """Compare two tokenizer descriptions; Unigram scores, sums in an order of chance, may differ in the third digit."""
    return _unscored(committed) == _unscored(trained) and all(
        math.isclose(committed_score, trained_score, abs_tol=0.02)
        for committed_score, trained_score in zip(_scores(committed), _scores(trained), strict=True)
    )


def _unscored(description: Description) -> Description:
    vocabulary = description["model"]["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    return description | {"model": description["model"] | {"vocab": pieces}}


def _scores(description: Description) -> list[float]:
    vocabulary = description["model"]["vocab"]
    return [] if isinstance(vocabulary, dict) else [score for _, score in vocabulary]


if __name__ == "__main__":
    sys.exit(main())
