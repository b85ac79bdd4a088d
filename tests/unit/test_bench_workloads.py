"""What the benchmarks send: lengths in tokens are as promised, and rounds differ."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer

import measuring
import workloads

TOKENIZER = Path(__file__).parents[1] / "fixtures" / "tokenizers" / "wordpiece.json"
LIMIT = 256


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> workloads.Source:
    english = [f"Text {n} tells of something else. " * (1 + n % 60) for n in range(300)]
    chinese = [f"第{n}本书很好，值得一读。" * (1 + n % 40) for n in range(300)]
    monkeypatch.setattr(workloads, "english", lambda: english)
    monkeypatch.setattr(workloads, "chinese", lambda cache: chinese)
    return workloads.Source(workloads.Ruler(TOKENIZER, LIMIT), tmp_path)


def texts_of(batch: workloads.Batch) -> list[list[str]]:
    given = [json.loads(request.partition(b"\r\n\r\n")[2])["input"] for request in batch.requests]
    return [[one] if isinstance(one, str) else one for one in given]


def counted(batch: workloads.Batch) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [[len(encoding.ids) for encoding in tokenizer.encode_batch(texts)] for texts in texts_of(batch)]


def test_queries_are_single_texts_of_8_to_32_tokens(source: workloads.Source) -> None:
    """Each request of the queries holds one sentence, whose tokens are counted with the special ones."""
    batch = source.queries(100)
    assert [sum(tokens) for tokens in counted(batch)] == batch.tokens
    assert all(8 <= tokens <= 32 for tokens in batch.tokens)


def test_queries_are_half_chinese(source: workloads.Source) -> None:
    """Half of the sentences have Chinese characters."""
    texts = [text for texts in texts_of(source.queries(100)) for text in texts]
    assert 40 <= sum(any("一" <= letter <= "鿿" for letter in text) for text in texts) <= 60


def test_repeated_queries_follow_zipf_s_law(source: workloads.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes with the tokens that it has, the first twice as often as the second and 50 times as the last."""
    different = workloads.Batch([bytes([rank]) for rank in range(50)], [100 + rank for rank in range(50)])
    monkeypatch.setattr(source, "queries", lambda count: different if count == 50 else None)
    batch = source.repeated_queries(50_000, 50)
    assert all(tokens == 100 + request[0] for request, tokens in zip(batch.requests, batch.tokens, strict=True))
    counts = [batch.requests.count(bytes([rank])) for rank in range(50)]
    assert sum(counts) == 50_000
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.1)
    assert counts[0] / counts[49] == pytest.approx(50, rel=0.3)


def test_chunks_fit_the_model(source: workloads.Source) -> None:
    """Lists have 32 texts of 20 tokens at least and no more than the model takes; long texts come in pieces."""
    batch = source.chunks(4)
    lengths = [length for tokens in counted(batch) for length in tokens]
    assert [len(texts) for texts in texts_of(batch)] == [32] * 4
    assert [sum(tokens) for tokens in counted(batch)] == batch.tokens
    assert min(lengths) >= 20
    assert LIMIT - 5 <= max(lengths) <= LIMIT


def test_bulk_texts_are_full(source: workloads.Source) -> None:
    """Every text of the bulk lists has as many tokens as the model takes, but for what a cut costs."""
    lengths = [length for tokens in counted(source.bulk(1)) for length in tokens]
    assert all(LIMIT - 5 <= length <= LIMIT for length in lengths)


def test_rounds_get_other_texts(source: workloads.Source) -> None:
    """Two draws share no text while the corpus lasts."""
    first, second = ({text for texts in texts_of(source.chunks(2)) for text in texts} for _ in range(2))
    assert not first & second


def test_a_cut_keeps_all_of_the_text(source: workloads.Source) -> None:
    """Beginning and rest of a cut text are the text."""
    text = "第一本书很好，值得一读。A text of its own. " * 40
    beginning, rest = workloads.Ruler(TOKENIZER, LIMIT).cut(text, 50)
    assert beginning + rest == text
    assert rest


def test_pictures_have_the_size_and_tokens_they_say(source: workloads.Source) -> None:
    """Each request has a picture of its own, as large as promised, and counts the tokens that it becomes."""
    batch = source.pictures(3, 640, 480)
    given = [json.loads(request.partition(b"\r\n\r\n")[2])["input"]["image"] for request in batch.requests]
    files = [base64.b64decode(image) for image in given]
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(640, 480)] * 3
    assert len(set(given)) == 3
    assert batch.tokens == [300] * 3
    assert source.pictures(1, 1920, 1080).tokens == [1736]


def test_another_contender_is_first_in_each_turn() -> None:
    """All have their turn after each other one; with none left there is nothing to turn."""
    assert [measuring.rotated(["a", "b", "c"], turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert measuring.rotated([], 1) == []
