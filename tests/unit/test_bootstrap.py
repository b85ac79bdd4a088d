"""Settings become running objects, and all of them are closed again; on model folders without weights."""

import gc
import threading
from pathlib import Path

import pytest

from fake_models import settings_of
from quartzite.admission.gate import Caller, Permit
from quartzite.bootstrap import running, web_app
from quartzite.bootstrap.models import EngineSource
from quartzite.config import CacheSettings, EngineSettings, ModelSettings, Settings
from quartzite.domain import EmbeddingRequest, TextItem
from quartzite.engines.fake import FakeEngine
from quartzite.errors import DownloadFailed, MissingExtra, ModelRefused
from quartzite.registry.card import ModelCard

built: list["Noted"] = []


class Noted(FakeEngine):
    """A fake engine that knows what it was built from."""

    def __init__(self, card: ModelCard, settings: EngineSettings) -> None:
        super().__init__(dimensions=card.dimensions)
        self.card = card
        self.settings = settings
        self.closings = 0

    async def close(self) -> None:
        """Count how often it is closed."""
        self.closings += 1


def load(card: ModelCard, settings: EngineSettings, cache: Path) -> Noted:
    """The engine of these tests; a folder called `refused` or `broken` fails."""
    if card.folder.name == "refused":
        raise ModelRefused("no such graph")
    if card.folder.name == "broken":
        raise RuntimeError("a bug")
    built.append(Noted(card, settings))
    return built[-1]


SOURCE = EngineSource("test_bootstrap:load", "nothing", "nothing")


@pytest.fixture(autouse=True)
def forget() -> None:
    """Each test sees its own engines only."""
    built.clear()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with one model, in `tmp_path`/model."""
    return settings_of(tmp_path, first="model")


def request(model: str) -> EmbeddingRequest:
    return EmbeddingRequest(model, (TextItem("hello"),))


async def test_a_model_is_loaded_served_and_closed(settings: Settings) -> None:
    """Inside the `async with` the pipeline answers; after it the engine is closed and no thread is left."""
    threads = threading.active_count()
    async with running(settings, SOURCE) as service:
        answer = await service.pipeline.embed(request("first"), Permit(Caller(None, "t")))
        assert answer.vectors.shape == (1, 32)
        (loaded,) = service.models.loaded.values()
        assert (loaded.card.name, loaded.arithmetic) == ("first", built[0].arithmetic)
        assert built[0].closings == 0
    assert built[0].closings == 1
    # asyncio's own pool, where loading ran, stays until the loop ends
    assert [t.name for t in threading.enumerate() if t.name.startswith("tokenise")] == []
    assert threading.active_count() >= threads


async def test_names_of_one_folder_share_an_engine(tmp_path: Path) -> None:
    """Two names of one folder are one engine and one queue, and each answers under its own name."""
    async with running(settings_of(tmp_path, one="model", two="model", other="elsewhere"), SOURCE) as service:
        models = service.pipeline.models
        assert len(built) == 2
        assert models["one"].batcher is models["two"].batcher is not models["other"].batcher
        assert [models[name].card.name for name in models] == ["one", "two", "other"]
        answers = [await service.pipeline.embed(request(name), Permit(Caller(None, "t"))) for name in ("one", "two")]
        assert [answer.model for answer in answers] == ["one", "two"]


async def test_another_precision_is_another_engine(tmp_path: Path) -> None:
    """A model's own precision wins over the common one, and keeps it apart from the same folder at another."""
    common = settings_of(tmp_path, one="model").models[0]
    models = (common, ModelSettings(name="exact", folder=common.folder, precision="f32"))
    async with running(Settings(models=models, engine=EngineSettings(precision="int8")), SOURCE):
        assert [engine.settings.precision for engine in built] == ["int8", "f32"]


@pytest.mark.parametrize("fault", ["refused", "broken", "absent", "untokenised"])
async def test_a_model_that_fails_is_named_and_the_others_are_closed(tmp_path: Path, fault: str) -> None:
    """If the second model cannot be loaded, the message names it and the first one is closed."""
    settings = settings_of(tmp_path, good="model", bad=fault)
    if fault == "absent":
        (tmp_path / fault / "config.json").unlink()
    if fault == "untokenised":
        (tmp_path / fault / "tokenizer.json").write_text("no JSON", encoding="utf-8")
    with pytest.raises((ModelRefused, RuntimeError)) as caught:
        async with running(settings, SOURCE):
            pytest.fail("the service must not run")
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "the model 'bad'" in told
    assert {engine.closings for engine in built} == {1}


async def test_of_two_faults_in_one_model_one_is_told(tmp_path: Path) -> None:
    """A folder refused by the engine whose tokenizer is damaged too fails once, and leaves no other failure behind."""
    settings = settings_of(tmp_path, bad="refused")
    (tmp_path / "refused" / "tokenizer.json").write_text("no JSON", encoding="utf-8")
    with pytest.raises(ModelRefused, match="the model 'bad' cannot be served"):
        async with running(settings, SOURCE):
            pytest.fail("the service must not run")
    gc.collect()


async def test_a_name_that_leads_nowhere_is_told_before_any_engine(tmp_path: Path) -> None:
    """A model without folder that nobody knows keeps its kind of failure."""
    settings = Settings(models=(ModelSettings(name="nowhere"),), cache=CacheSettings(folder=str(tmp_path)))
    with pytest.raises(DownloadFailed, match="the model 'nowhere' cannot be served"):
        async with running(settings, SOURCE):
            pytest.fail("the service must not run")


async def test_a_missing_library_names_the_command_that_installs_it(settings: Settings) -> None:
    """An engine whose library is not installed says how to get it."""
    source = EngineSource("absent_library:load", "absent_library", "pip install absent-library")
    with pytest.raises(MissingExtra, match="absent_library is not installed; install it with: pip install absent-lib"):
        async with running(settings, source):
            pytest.fail("the service must not run")


async def test_a_fault_inside_an_engine_is_not_taken_for_a_missing_library(settings: Settings) -> None:
    """A module that an engine fails to find, other than its library, is a bug and stays one."""
    with pytest.raises(ModuleNotFoundError, match="absent_library"):
        async with running(settings, EngineSource("absent_library:load", "openvino", "")):
            pytest.fail("the service must not run")


async def test_the_application_serves_the_models(settings: Settings) -> None:
    """The web application answers for the models of the settings."""
    import httpx

    async with running(settings, SOURCE) as service:
        transport = httpx.ASGITransport(web_app(service, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            answer = await client.get("/v1/models")
    assert [model["id"] for model in answer.json()["data"]] == ["first"]


async def test_many_starts_leave_nothing_behind(settings: Settings) -> None:
    """Twenty starts and stops leave no more open files and threads than the first few did."""

    async def once() -> None:
        async with running(settings, SOURCE) as service:
            await service.pipeline.embed(request("first"), Permit(Caller(None, "t")))

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    # asyncio's pool of threads for loading grows up to a size of its own
    for _ in range(40):
        await once()
    before = held()
    for _ in range(20):
        await once()
    assert held() == before
