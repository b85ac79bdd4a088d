"""The catalogue against the API document, and against itself."""

import re

import pytest

from quartzite.config import DEFAULT_MODEL
from quartzite.registry.catalog import CatalogEntry, catalog

SERIES = (64, 128, 256, 512, 768, 1024, 1536, 2048, 2560, 4096)

# The API document's limits, with the native sizes of the models.
DOCUMENT = {
    "BAAI/bge-large-zh-v1.5": (1024, 512, ()),
    "BAAI/bge-large-en-v1.5": (1024, 512, ()),
    "netease-youdao/bce-embedding-base_v1": (768, 512, ()),
    "BAAI/bge-m3": (1024, 8192, ()),
    "Pro/BAAI/bge-m3": (1024, 8192, ()),
    "Qwen/Qwen3-Embedding-0.6B": (1024, 32768, SERIES[:6]),
    "Qwen/Qwen3-Embedding-4B": (2560, 32768, SERIES[:9]),
    "Qwen/Qwen3-Embedding-8B": (4096, 32768, SERIES),
    "Qwen/Qwen3-VL-Embedding-8B": (4096, 32768, SERIES),
}
BEYOND = {"Qwen/Qwen3-VL-Embedding-2B": (2048, 32768, SERIES[:8])}

entries = pytest.mark.parametrize("entry", catalog().values(), ids=list(catalog()))


def test_the_catalogue_lists_the_document_and_the_bundled_model() -> None:
    """Nine models of the document, the smaller one that takes images, and the default one."""
    assert set(catalog()) == {*DOCUMENT, *BEYOND, DEFAULT_MODEL}


@pytest.mark.parametrize("name", DOCUMENT | BEYOND)
def test_an_entry_has_the_limits_of_the_document(name: str) -> None:
    """Native size, token limit and the sizes that `dimensions` may take."""
    entry = catalog()[name]
    assert (entry.dimensions, entry.max_tokens, entry.allowed_dimensions) == (DOCUMENT | BEYOND)[name]


def test_two_models_take_images() -> None:
    """The list of models says which."""
    assert {name for name, entry in catalog().items() if entry.kind == "text and images"} == {
        "Qwen/Qwen3-VL-Embedding-8B",
        "Qwen/Qwen3-VL-Embedding-2B",
    }


def test_the_pro_name_stands_for_the_same_files() -> None:
    """Two names, one repository and revision, so that their weights can be shared."""
    plain, pro = catalog()["BAAI/bge-m3"], catalog()["Pro/BAAI/bge-m3"]
    assert (pro.name, plain.name) == ("Pro/BAAI/bge-m3", "BAAI/bge-m3")
    assert (pro.repo, pro.revision, pro.files) == (plain.repo, plain.revision, plain.files)


@entries
def test_an_entry_is_found_under_its_own_name(entry: CatalogEntry) -> None:
    """The key of the mapping and the entry's name are one."""
    assert catalog()[entry.name] is entry


@entries
def test_revisions_and_hashes_are_whole(entry: CatalogEntry) -> None:
    """A shortened hash would match nothing and only be noticed at the first download."""
    assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    for facts in entry.files:
        assert facts.sha256 is not None
        assert re.fullmatch(r"[0-9a-f]{64}", facts.sha256)
        assert facts.size_bytes > 0


@entries
def test_known_files_of_a_moving_branch_are_those_of_the_bundle(entry: CatalogEntry) -> None:
    """Hashes hold for one revision only: without one, they can speak of the bundled archive alone."""
    assert entry.revision or entry.bundle or not entry.files


def test_a_size_is_told_only_where_the_weights_are_known() -> None:
    """A tokenizer alone, of which size and hash are known, is not the size of a model."""
    assert catalog()["Qwen/Qwen3-VL-Embedding-2B"].size_bytes is None
    assert catalog()["netease-youdao/bce-embedding-base_v1"].size_bytes is None
    assert catalog()["Qwen/Qwen3-Embedding-8B"].size_bytes == 15_146_057_515
    assert catalog()[DEFAULT_MODEL].size_bytes == 91_336_293


@entries
def test_published_similarities_have_the_shape_of_their_texts(entry: CatalogEntry) -> None:
    """One row per query, one cosine per document."""
    for check in entry.checks:
        assert len(check.expected) == len(check.queries)
        assert {len(row) for row in check.expected} == {len(check.documents)}
        assert all(-1 <= cosine <= 1 for row in check.expected for cosine in row)
        assert 0 < check.tolerance <= 0.02
        assert check.source


def test_published_similarities_are_there_for_the_models_that_have_them() -> None:
    """The figures of the bge models, of two Qwen3 sizes and of MiniLM."""
    checked = {name: len(entry.checks) for name, entry in catalog().items() if entry.checks}
    assert checked == {
        DEFAULT_MODEL: 1,
        "BAAI/bge-large-zh-v1.5": 1,
        "BAAI/bge-large-en-v1.5": 1,
        "BAAI/bge-m3": 2,
        "Pro/BAAI/bge-m3": 2,
        "Qwen/Qwen3-Embedding-0.6B": 3,
        "Qwen/Qwen3-Embedding-8B": 1,
    }


def test_qwen3_queries_carry_the_published_instruction() -> None:
    """With a line break and no space before the text, as the model was trained."""
    check = catalog()["Qwen/Qwen3-Embedding-0.6B"].checks[1]
    assert check.query_prompt.startswith("Instruct: Given a web search query")
    assert check.query_prompt.endswith("\nQuery:")
