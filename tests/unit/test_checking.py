"""`quartzite models check`: what passes and what does not, with embeddings made for the purpose."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from quartzite.cli.checking import Embed, Finding, published, soundness
from quartzite.domain import Vectors
from quartzite.registry.catalog import PublishedCheck

ANGLES = {"q": 0.0, "ask: q": 0.3, "same": 0.3, "other": 1.3}


def on_a_circle(texts: Sequence[str]) -> Vectors:
    """Unit vectors at known angles."""
    return np.array([(np.cos(ANGLES[text]), np.sin(ANGLES[text])) for text in texts], dtype=np.float32)


def distinct(texts: Sequence[str]) -> Vectors:
    """Unit vectors that depend on the text alone, and hardly resemble each other."""
    rows = np.stack([np.random.default_rng(list(text.encode())).standard_normal(64) for text in texts])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def asynchronous(function: Callable[[Sequence[str]], Vectors]) -> Embed:
    async def embed(texts: Sequence[str]) -> Vectors:
        return function(texts)

    return embed


def check(expected: float, prompt: str = "ask: ") -> PublishedCheck:
    """Published figures of one query and two documents, the second of which is as computed."""
    wanted = ((expected, float(np.cos(1.0))),)
    return PublishedCheck("a paper", ("q",), ("same", "other"), wanted, tolerance=0.01, query_prompt=prompt)


async def test_published_similarities_are_compared_pair_by_pair() -> None:
    """Every query, with its prompt, is compared with every document, without one."""
    first, second = await published(check(1.0), asynchronous(on_a_circle))
    assert (first.what, second.what) == ("query 1, document 1", "query 1, document 2")
    assert first.found == pytest.approx(1.0)
    assert first.passed
    assert second.passed


@pytest.mark.parametrize("faulty", [check(0.98), check(1.0, prompt="")], ids=["another figure", "no prompt"])
async def test_a_similarity_outside_the_tolerance_fails(faulty: PublishedCheck) -> None:
    """A figure that is off by more than the tolerance fails, and says by how much."""
    first, _ = await published(faulty, asynchronous(on_a_circle))
    assert not first.passed
    assert first.difference > 0.01


def test_no_number_never_passes() -> None:
    """NaN is outside of every tolerance."""
    assert not Finding("x", 1.0, float("nan"), 10.0).passed


async def test_sound_vectors_pass() -> None:
    """Vectors of unit length that depend on their text alone, and differ, are sound."""
    assert all(finding.passed for finding in await soundness(asynchronous(distinct)))


@pytest.mark.parametrize(
    ("fault", "embed"),
    [
        ("length farthest from 1", lambda texts: distinct(texts) * np.float32(1.01)),
        ("cosine of a text alone and in a batch", lambda texts: distinct([f"{len(texts)} {text}" for text in texts])),
        ("highest cosine of different texts", lambda texts: distinct(["always"] * len(texts))),
    ],
)
async def test_unsound_vectors_fail(fault: str, embed: Callable[[Sequence[str]], Vectors]) -> None:
    """Each kind of unsoundness is found by the figure that is made for it."""
    findings = await soundness(asynchronous(embed))
    assert fault in [finding.what for finding in findings if not finding.passed]
