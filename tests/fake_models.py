"""Model folders without weights, and the engine that stands for them where a whole service is built from settings."""

import threading
from pathlib import Path

import model_folders
from quartzite.bootstrap.models import EngineSource
from quartzite.config import CacheSettings, EngineSettings, ModelSettings, Settings
from quartzite.engines.fake import FakeEngine
from quartzite.errors import ModelRefused
from quartzite.registry.card import ModelCard
from serving import WORDPIECE

let_go = threading.Event()
built: list[FakeEngine] = []
"""The engines that were loaded, to be cleared by tests that look at them."""


def load(card: ModelCard, settings: EngineSettings, cache: Path) -> FakeEngine:
    """Return an engine of the card's size; a folder called `refused` or `broken` fails, `slow` waits for `let_go`."""
    if card.folder.name == "slow":
        let_go.wait()
    if card.folder.name == "refused":
        raise ModelRefused("no such graph")
    if card.folder.name == "broken":
        raise RuntimeError("a bug")
    built.append(FakeEngine(dimensions=card.dimensions))
    return built[-1]


SOURCE = EngineSource("fake_models:load", "nothing", "nothing")


def settings_of(tmp_path: Path, **models: str) -> Settings:
    """Return settings that serve `models`: name and folder below `tmp_path`, whose descriptions are written."""
    for folder in set(models.values()):
        write_model(tmp_path / folder)
    entries = tuple(ModelSettings(name=name, folder=str(tmp_path / folder)) for name, folder in models.items())
    return Settings(models=entries, cache=CacheSettings(folder=str(tmp_path / "cache")))


def write_model(folder: Path) -> None:
    """Write the descriptions of a small model, without weights, into `folder`."""
    config = model_folders.BERT | {"vocab_size": 1188}
    files = model_folders.descriptions(config, {"tokenizer.json": WORDPIECE.read_bytes()})
    model_folders.write(folder, files)
