"""Golden cases for the tests: each model folder made anew from its seed, with what the reference gives for it."""

from collections.abc import Callable
from functools import cache

import pytest

from quartzite.config import DEFAULT_MODEL, ModelSettings
from quartzite.registry.files import locate
from synthetic.folder import make_folder
from synthetic.golden import CASES, GoldenCase, golden_file, load_vectors, read_texts


@pytest.fixture(scope="session")
def golden_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], GoldenCase]:
    """Return the golden case of a name in CASES; its folder is made once."""

    @cache
    def made(name: str) -> GoldenCase:
        folder = tmp_path_factory.mktemp(name, numbered=False)
        make_folder(folder, CASES[name])
        golden = load_vectors(golden_file(name))
        return GoldenCase(name, folder, read_texts(), golden.ids, golden.vectors, CASES[name].pooling)

    return made


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest, golden_case: Callable[[str], GoldenCase]) -> GoldenCase:
    """Every golden case of a tiny model, one after the other."""
    return golden_case(request.param)


@pytest.fixture(scope="session")
def minilm_case(tmp_path_factory: pytest.TempPathFactory) -> GoldenCase:
    """The real MiniLM out of its package; the vectors are sentence-transformers' and have unit length."""
    folder = locate(ModelSettings(name=DEFAULT_MODEL), tmp_path_factory.mktemp("minilm"), progress=False)
    golden = load_vectors(golden_file("minilm"))
    return GoldenCase("minilm", folder, read_texts("english"), golden.ids, golden.vectors, "mean")
