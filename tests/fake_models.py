"""Model folders without weights, and the engine that stands for them where a whole service is built from settings."""

from pathlib import Path

import model_folders
from quartzite.bootstrap.models import EngineSource
from quartzite.config import CacheSettings, EngineSettings, ModelSettings, Settings
from quartzite.engines.fake import FakeEngine
from quartzite.registry.card import ModelCard
from serving import WORDPIECE


def load(card: ModelCard, settings: EngineSettings, cache: Path) -> FakeEngine:
    """Return an engine of the card's size."""
    return FakeEngine(dimensions=card.dimensions)


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
