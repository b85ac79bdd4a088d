"""The way of one request, on one screen. Knows the parts by name; nothing of the web, and nothing of how parts work."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from quartzite.admission.gate import Caller, Gate, Permit
from quartzite.admission.visit import Visit
from quartzite.batching.uses import Uses
from quartzite.batching.worker import Batcher
from quartzite.config import RequestSettings
from quartzite.domain import Embedded, EmbeddingRequest, Encoded, TextItem, Timings, Withdrawal
from quartzite.errors import DeadlineExceeded, UnknownModel
from quartzite.postprocess.vectors import finish
from quartzite.preprocess.inputs import check_contents, check_dimensions
from quartzite.preprocess.pictures import Pictures
from quartzite.preprocess.tokenise import Tokeniser
from quartzite.registry.card import ModelCard
from quartzite.telemetry.trace import Trace

SHORT_CHARACTERS = 400
"""A request with so little text is tokenised at once: it takes 0.15 ms at most, and a thread is no sooner awake."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model with all that is needed to answer for it."""

    card: ModelCard
    tokeniser: Tokeniser
    batcher: Batcher
    uses: Uses = field(default_factory=Uses)
    withdrawal: Withdrawal | None = None


class Pipeline:
    """Answers requests for `models`, keyed by the names clients send.

    Texts are tokenised on the threads of `tokenising`, images read by `pictures`.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        gate: Gate,
        settings: RequestSettings,
        tokenising: Executor,
        pictures: Pictures,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.models = models
        self.draining = False
        self._gate = gate
        self._timeout_s, self._timeout_with_images_s = (
            settings.timeout_ms / 1000,
            settings.timeout_with_images_ms / 1000,
        )
        self._tokenising = tokenising
        self._pictures = pictures
        self._clock = clock

    def drain(self) -> None:
        """Have requests that come from now on refused; those under way go on."""
        self.draining = True

    def visit(self, caller: Caller, trace: Trace) -> Visit:
        """Let `caller` in for the length of the `async with`, at whose end is recorded what became of its request."""
        return Visit(self._gate, caller, trace, self._clock)

    async def admit(self, caller: Caller) -> None:
        """Let `caller` ask what is here, uncounted; raises a RequestFailure for who may not come in."""
        await self._gate.admit(caller)

    def withdrawal_of(self, model: str) -> Withdrawal | None:
        """Return what its clients are to know of the end of a model, None where there is nothing."""
        served = self.models.get(model)
        return served.withdrawal if served else None

    async def embed(self, request: EmbeddingRequest, permit: Permit, timeout_s: float = math.inf) -> Embedded:
        """Answer one request; raises a RequestFailure that says why not, and drops all its work when cancelled.

        `timeout_s` gives it less time than the settings do, never more.
        """
        timeout_s = min(timeout_s, self._timeout_with_images_s if request.images else self._timeout_s)
        deadline = self._clock() + timeout_s
        try:
            model = self._model(request)
            with model.uses:  # it goes on answering to the end although it may be withdrawn meanwhile
                async with asyncio.timeout(timeout_s):
                    await self._gate.count(permit, request)
                    check_contents(request, model.card, (other.card for other in self.models.values()))
                    check_dimensions(request.dimensions, model.card)
                    model.batcher.check(deadline)
                    with self._pictures.held(request.items):
                        encoded, timings = await self._prepare(model.tokeniser, request)
                        tokens = sum(item.tokens for item in encoded)
                        await self._gate.charge(permit, request, tokens)
                        ran = await model.batcher.embed(encoded, deadline, permit.account_id)
        except (DeadlineExceeded, TimeoutError):  # told is the whole time that was given, not what was left somewhere
            raise DeadlineExceeded(timeout_s) from None
        vectors = finish(ran.vectors, request.dimensions)
        timings = Timings(timings.tokenise_s, ran.queue_s, ran.engine_s, timings.pictures_s)
        return Embedded(request.model, vectors, request.encoding, tokens, timings)

    def _model(self, request: EmbeddingRequest) -> ServedModel:
        model = self.models.get(request.model)
        if model is None:
            raise UnknownModel(request.model)
        return model

    async def _prepare(self, tokeniser: Tokeniser, request: EmbeddingRequest) -> tuple[list[Encoded], Timings]:
        """Read pictures, then tokenise, off the event loop and as threads are free; what is short, at once."""
        begun = self._clock()
        if _is_short(request):
            return tokeniser.encode(request.items, request.truncate), Timings(self._clock() - begun)
        loop = asyncio.get_running_loop()
        pictures = await self._pictures.read(request.items)
        seen = self._clock()
        asked = (request.items, request.truncate, pictures, request.instruction)
        encoded = await loop.run_in_executor(self._tokenising, tokeniser.encode, *asked)
        return encoded, Timings(self._clock() - seen, pictures_s=seen - begun)


def _is_short(request: EmbeddingRequest) -> bool:
    """Say whether a request holds nothing but texts, of SHORT_CHARACTERS in all, without instructions."""
    characters = 0
    for item in request.items:
        if not isinstance(item, TextItem) or item.instruction:
            return False
        characters += len(item.text)
    return characters <= SHORT_CHARACTERS and not request.instruction
