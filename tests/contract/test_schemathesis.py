"""Schemathesis calls a live server by our own description of the API, and by the one that the service follows.

It tries examples, the edges of every field, and random values, some that fit the document and some that do not, and
holds each answer against the document: status, headers, body, what must be refused and what must not. Nothing that it
says is passed over in silence: where the documents cannot know this server, or contradict themselves, they are
adapted below, each time with the reason.
"""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from quartzite.admission.authenticate import Authenticator, Principal
from quartzite.admission.gate import KeyedGate
from quartzite.admission.limits import Limits
from quartzite.admission.windows import LocalWindows
from quartzite.config import ImageSettings
from quartzite.preprocess.pictures import Pictures
from seeing import data_uri, png
from serving import CUTTABLE, MAX_TOKENS, SEEING, VOCABULARY, fake_service, listening

HERE = Path(__file__).parent
LAW = HERE.parent / "fixtures" / "api" / "siliconflow-embeddings.yaml"
KEY = "sk-of-the-tests"
IDS = {"type": "integer", "minimum": 0, "maximum": VOCABULARY - 1}
MOST_IDS = MAX_TOKENS - 2
CASES = 15  # random ones per operation; the edges come on top


def keyed_gate() -> KeyedGate:
    """Return a gate that knows KEY, and no limits."""
    return KeyedGate(Authenticator([KEY], Principal(), None), Limits([], LocalWindows(lambda: 0.0)), {}, None, None)


@pytest.fixture
async def address() -> AsyncIterator[httpx.URL]:
    """A server of the fake engine that asks for a key, as the API document has it."""
    async with fake_service(gate=keyed_gate()) as service, listening(service.app, timeout_graceful_shutdown=1) as url:
        yield url


def this_server(fields: dict[str, Any]) -> None:
    """Say in a document what only this server knows.

    - `model`: a name that is served; others are 400, which no schema can tell.
    - `dimensions`: the sizes that this model offers; others are 400.
    """
    fields["model"] = {"type": "string", "enum": [CUTTABLE]}
    fields["dimensions"] = {"type": "integer", "nullable": True, "enum": [2, 4, 8, None]}


def our_document() -> Any:
    """Return our own document, adapted to this server.

    - Token arrays hold ids of this vocabulary, as many as the model takes besides its two special tokens.
    """
    from quartzite.config import RequestSettings
    from quartzite.web.openapi import openapi

    document = openapi(RequestSettings(), [CUTTABLE])
    schemas = document["components"]["schemas"]
    fields = schemas["EmbeddingsRequest"]["properties"]
    this_server(fields)
    # No model of this server takes images: it refuses them, and instructions, by name.
    image = {"$ref": "#/components/schemas/EmbeddingImageContent"}
    fields["input"]["oneOf"].remove(image)
    schemas["EmbeddingInputItem"]["oneOf"].remove(image)
    del fields["instruction"], schemas["EmbeddingTextContent"]["properties"]["instruction"]
    schemas["TokenArray"] |= {"maxItems": MOST_IDS, "items": IDS, "example": [5, 6, 7]}
    document["security"] = [{"bearerAuth": []}]  # optional in the document, for a service may be open; this one is not
    return document


def document_with_images() -> Any:
    """Return our own document, adapted to a model that takes images.

    - Images are those of this test: not every text that fits the document is one, and fetching is off.
    - The model's prompt is made of texts: token arrays are refused by name.
    """
    from quartzite.config import RequestSettings
    from quartzite.web.openapi import openapi

    document = openapi(RequestSettings(token_arrays="reject"), [SEEING])
    schemas = document["components"]["schemas"]
    schemas["EmbeddingsRequest"]["properties"] |= {
        "model": {"type": "string", "enum": [SEEING]},
        "dimensions": {"type": "integer", "nullable": True, "minimum": 2, "maximum": 8},
    }
    file = png(8, 8)
    schemas["EmbeddingImageContent"]["properties"]["image"] |= {
        "enum": [data_uri(file), base64.b64encode(file).decode()],
        "example": data_uri(file),
    }
    document["security"] = [{"bearerAuth": []}]
    document["paths"] = {"/v1/embeddings": document["paths"]["/v1/embeddings"]}  # the others have been seen
    return document


def their_document() -> Any:
    """Return the API document, adapted to this server and rid of what contradicts itself.

    - `object` of an answer has `enum: [[list]]`, a list where a string is declared: the string is meant.
    - `embedding` is an array of numbers, also where `encoding_format` is `base64`: then it is a string.
    - Token arrays are described in words ("an array of tokens", "an array of token arrays") and missing in the schema.
    - Texts "should not be an empty string": the schema lets them be. Line breaks alone are as good as empty.
    - `{"image": ...}` is refused here by name, for no model of this server takes images; so are keys of content objects
      that nobody knows.
    - Fields that are `null` count as absent, as clients send them (LiteLLM); the schema says nothing of it.
    - 405 is answered to other methods, 408, 431 and 500 where something else goes wrong: not in the document at all.
    """
    document = yaml.safe_load(LAW.read_text(encoding="utf-8"))
    schemas = document["components"]["schemas"]
    answer = schemas["EmbeddingsResponse"]["properties"]
    answer["object"]["enum"] = ["list"]
    item = answer["data"]["items"]["properties"]
    item["embedding"] = {"oneOf": [item["embedding"], {"type": "string", "format": "byte"}]}
    text = {"type": "string", "minLength": 1, "pattern": "[^\\r\\n]"}
    content = {"type": "object", "required": ["text"], "additionalProperties": False}
    content["properties"] = {"text": text}
    tokens = {"type": "array", "minItems": 1, "maxItems": MOST_IDS, "items": IDS}
    several = [{"oneOf": [text, content]}, tokens]
    lists = [{"type": "array", "minItems": 1, "maxItems": 32, "items": items} for items in several]
    for name in ("EmbeddingsClassicRequest", "EmbeddingsVLRequest"):
        fields = schemas[name]["properties"]
        this_server(fields)
        fields["input"] = {"oneOf": [text, content, tokens, *lists]}
        for optional in ("encoding_format", "truncate", "user"):
            if optional in fields:
                fields[optional]["nullable"] = True
                if "enum" in fields[optional]:
                    fields[optional]["enum"].append(None)
    return document


async def complaints(document: Any, base: httpx.URL, folder: Path) -> str:
    """Return all that Schemathesis has against the server at `base`, by `document`; empty if nothing."""
    file = folder / "document.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    command = ["run", str(file), "--url", str(base), "-H", f"Authorization: Bearer {KEY}", "-n", str(CASES)]
    command += [
        "--generation-deterministic",
        "--phases",
        "examples,coverage,fuzzing",
        "--continue-on-failure",
        "--no-color",
    ]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "schemathesis.cli", *command],
        env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE), "NO_PROXY": "*"},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return said.decode() if process.returncode else ""


async def test_our_own_document_is_kept(address: httpx.URL, tmp_path: Path) -> None:
    """Whatever a program makes of our document, the server does what the document says."""
    if said := await complaints(our_document(), address, tmp_path):
        pytest.fail(said)


async def test_our_own_document_is_kept_with_images(tmp_path: Path) -> None:
    """The same with a model that takes images, texts, both in one object, and instructions."""
    pictures = Pictures(ImageSettings(fetch=False))
    async with (
        fake_service(gate=keyed_gate(), pictures=pictures, seeing_tokens=5000) as service,
        listening(service.app, timeout_graceful_shutdown=1) as url,
    ):
        said = await complaints(document_with_images(), url, tmp_path)
    await pictures.close()
    if said:
        pytest.fail(said)


async def test_the_document_that_is_followed_is_kept(address: httpx.URL, tmp_path: Path) -> None:
    """Whatever a program makes of SiliconFlow's document, the server does what that document says."""
    if said := await complaints(their_document(), address.join("/v1"), tmp_path):
        pytest.fail(said)
