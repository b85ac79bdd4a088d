"""`quartzite embed`: vectors on the terminal, computed in the same way as the server's but without one."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from quartzite.cli.options import CacheFolder, ConfigFile, OneModel, PrecisionFlag, settings_of
from quartzite.config import RequestSettings, Settings
from quartzite.errors import InvalidParameter, StartFailure
from quartzite.telemetry.logs import set_up_logging

if TYPE_CHECKING:
    from quartzite.domain import Item, Side

TEXTS_AT_ONCE = 256
"""Enough to fill micro-batches, few enough that the first vectors of a long input come soon."""


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to embed; without any, each line of the input is one.")
    ] = None,
    model: OneModel = None,
    precision: PrecisionFlag = None,
    dimensions: Annotated[int | None, typer.Option(help="Size of the vectors, where the model offers several.")] = None,
    truncate: Annotated[
        Literal["left", "right"] | None,
        typer.Option(help="Cut longer texts on this side; without it they are refused."),
    ] = None,
    cache: CacheFolder = None,
    config: ConfigFile = None,
) -> None:
    """Print the vector of every text as one line of JSON, without a server."""
    import asyncio

    flags = {"engine.precision": precision, "cache.folder": cache}
    settings = settings_of(config, [model] if model else [], flags)
    settings = msgspec.structs.replace(settings, models=settings.models[:1])
    set_up_logging(settings.server.log_format)
    asyncio.run(_embed(settings, texts or _lines(), dimensions, truncate))


def _lines() -> Iterator[str]:
    """Yield the lines of the input without their ends; raises StartFailure for one that is not in its encoding."""
    encoding = sys.stdin.encoding
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.rstrip(b"\r\n").decode(encoding)
        except UnicodeDecodeError as error:
            raise StartFailure(f"text {number} is not in {encoding}: {error.reason} at byte {error.start}") from error
        yield text


async def _embed(settings: Settings, texts: Iterable[str], dimensions: int | None, truncate: "Side | None") -> None:
    import orjson

    from quartzite.admission.gate import Caller, Permit
    from quartzite.bootstrap import running
    from quartzite.domain import EmbeddingRequest

    async with running(settings) as service:
        items = (_item(text, number) for number, text in enumerate(texts, 1))
        while chunk := tuple(islice(items, TEXTS_AT_ONCE)):
            request = EmbeddingRequest(settings.models[0].name, chunk, dimensions=dimensions, truncate=truncate)
            answer = await service.pipeline.embed(request, Permit(Caller(None, "embed")))
            for vector in answer.vectors:
                typer.echo(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY))


def _item(text: str, number: int) -> "Item":
    """Check one text as a server would; messages count the texts from 1."""
    from quartzite.preprocess.inputs import read_items

    try:
        (item,) = read_items(text, RequestSettings())
    except InvalidParameter as failure:
        raise StartFailure(f"text {number}: {failure.message}") from failure
    return replace(item, pointer=f"text {number}")
