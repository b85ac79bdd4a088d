"""The wire names: request bodies as they come, answers as they leave. Knows nothing of routes and headers."""

from collections.abc import Iterable
from typing import Any, cast

import msgspec
import orjson

from quartzite.config import RequestSettings
from quartzite.domain import Embedded, EmbeddingRequest, Encoding, Side
from quartzite.errors import InvalidParameter
from quartzite.postprocess.vectors import encode_base64
from quartzite.preprocess.inputs import read_instruction, read_items
from quartzite.web.json_body import refuse_crowd, refuse_repetition


class EmbeddingsBody(msgspec.Struct):
    """The body of POST /v1/embeddings before any check: null counts as absent, unknown fields are skipped."""

    model: Any = None
    input: Any = None
    encoding_format: Any = None
    dimensions: Any = None
    truncate: Any = None
    user: Any = None
    instruction: Any = None


_decoder = msgspec.json.Decoder(EmbeddingsBody)


def read_request(body: bytes | bytearray, settings: RequestSettings) -> EmbeddingRequest:
    """Check the form of a request body; raises InvalidParameter or TooManyItems that name the field at fault."""
    refuse_crowd(body)
    fields = _decode(body)
    request = EmbeddingRequest(
        model=_model(fields.model),
        encoding=cast(Encoding, _choice("encoding_format", fields.encoding_format, ("float", "base64")) or "float"),
        dimensions=_dimensions(fields.dimensions),
        truncate=cast(Side | None, _choice("truncate", fields.truncate, ("left", "right"))),
        user=_user(fields.user),
        instruction=read_instruction(fields.instruction),
        items=read_items(fields.input, settings),
    )
    refuse_repetition(body, fields.input)
    return request


def write_answer(answer: Embedded) -> bytes:
    """Return the JSON of an answer; floats are the shortest decimals that read back as the same float32."""
    rows: Iterable[object] = encode_base64(answer.vectors) if answer.encoding == "base64" else answer.vectors
    document = {
        "object": "list",
        "data": [{"object": "embedding", "embedding": row, "index": index} for index, row in enumerate(rows)],
        "model": answer.model,
        "usage": {"prompt_tokens": answer.tokens, "completion_tokens": 0, "total_tokens": answer.tokens},
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def write_model(name: str) -> dict[str, object]:
    """Return the entry of a served model, with the constants that the service sends."""
    return {"id": name, "object": "model", "created": 0, "owned_by": ""}


def _decode(body: bytes | bytearray) -> EmbeddingsBody:
    try:
        return _decoder.decode(body)
    except RecursionError:
        raise InvalidParameter("the body is nested too deeply.", "body") from None
    except UnicodeDecodeError:
        raise InvalidParameter("the body must be JSON in UTF-8.", "body") from None
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"the body must be a JSON object: {error}.", "body") from None


def _model(value: object) -> str:
    if value is None:
        raise InvalidParameter("`model` is required.", "model")
    if not isinstance(value, str) or not value:
        raise InvalidParameter("`model` must be a string that is not empty.", "model")
    return value


def _choice(name: str, value: object, allowed: tuple[str, str]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in allowed:
        raise InvalidParameter(f"`{name}` must be `{allowed[0]}` or `{allowed[1]}`.", name)
    return value


def _dimensions(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidParameter("`dimensions` must be an integer of at least 1.", "dimensions")
    return value


def _user(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InvalidParameter("`user` must be a string.", "user")
