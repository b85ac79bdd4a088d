"""Models that come and go, over HTTP. Knows how they are shown; how they are loaded is not its business."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from quartzite.config import ModelSettings
from quartzite.config.reading import model_faults
from quartzite.domain import ModelState
from quartzite.errors import InvalidParameter, ModelNotLoaded, NoSuchRecord, StartFailure, Stopping
from quartzite.pipeline import Pipeline
from quartzite.registry.card import ModelCard
from quartzite.web.admin_bodies import fault_of, read_object
from quartzite.web.admin_records import answer, listing
from quartzite.web.connection import Bodies


class LoadedModel(Protocol):
    """How a served model came to be."""

    @property
    def settings(self) -> ModelSettings:
        """What it was loaded by."""

    @property
    def card(self) -> ModelCard:
        """What was found in its folder."""

    @property
    def arithmetic(self) -> str:
        """How it is computed, and why so."""

    @property
    def load_s(self) -> float:
        """How long it took to load, in seconds."""


class ModelControl(Protocol):
    """What loads and unloads models."""

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """The served models by name."""

    @property
    def changing(self) -> Mapping[str, ModelState]:
        """The names that are being loaded or unloaded."""

    def configured(self, name: str) -> ModelSettings:
        """Return the settings of the name where the server has some, else those of a name without any."""

    async def load(self, model: ModelSettings) -> LoadedModel:
        """Serve one more model; raises Conflict, or a StartFailure."""

    async def unload(self, name: str) -> None:
        """Serve a model no more; raises NoSuchRecord or Conflict."""


class AdminModels:
    """The endpoints of models that come and go by `control` and are served by `pipeline`."""

    def __init__(self, control: ModelControl, pipeline: Pipeline, bodies: Bodies) -> None:
        self._control = control
        self._bodies = bodies
        self._pipeline = pipeline

    async def list(self, _http: Request) -> Response:
        """Answer with the models that are served, and those that are being loaded and unloaded."""
        return listing([self._shown(name) for name in [*self._control.loaded, *self._control.changing]])

    async def show(self, http: Request) -> Response:
        """Answer with one of them."""
        name = http.path_params["name"]
        if name not in self._control.loaded and name not in self._control.changing:
            raise NoSuchRecord(f"no model {name!r} is served", "name")
        return answer(self._shown(name))

    async def load(self, http: Request) -> Response:
        """Load a model and answer when it is served; what is not given is as the server's settings have it."""
        self._refuse_at_the_end()
        model = self._settings(await read_object(http, dict[str, Any], self._bodies))
        try:
            await self._control.load(model)
        except StartFailure as failure:
            raise ModelNotLoaded(str(failure), "name") from failure
        return answer(self._shown(model.name), 201)

    async def unload(self, http: Request) -> Response:
        """Withdraw a model, and answer when its requests are answered and its memory is free."""
        self._refuse_at_the_end()
        name = http.path_params["name"]
        await self._control.unload(name)
        return answer({"name": name, "state": "unloaded"})

    def _refuse_at_the_end(self) -> None:
        if self._pipeline.draining:
            raise Stopping

    def _settings(self, given: dict[str, Any]) -> ModelSettings:
        name = given.get("name")
        known = msgspec.to_builtins(self._control.configured(name)) if isinstance(name, str) and name else {}
        try:
            model = msgspec.convert({**known, **given}, ModelSettings)
        except msgspec.ValidationError as error:
            raise fault_of(error) from None
        for field, words in model_faults(model):
            raise InvalidParameter(f"`{field}`: {words}.", field)
        return model

    def _shown(self, name: str) -> dict[str, Any]:
        loaded = self._control.loaded.get(name)
        if loaded is None:
            return {"name": name, "state": self._control.changing[name]}
        return {
            "name": name,
            "state": self._pipeline.models[name].batcher.health.state,
            "dimensions": loaded.card.dimensions,
            "max_tokens": loaded.card.max_tokens,
            "precision": loaded.arithmetic,
            "folder": str(loaded.card.folder),
            "level": loaded.settings.level,
            "deprecated": loaded.settings.deprecated,
            "sunset": loaded.settings.sunset,
            "load_s": round(loaded.load_s, 3),
        }
