"""Images over HTTP: the API document's own calls, what an image comes to, and how its failures look."""

import asyncio
import base64
import json
import re
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from picture_hosts import Names, PictureHost, Visit, answer, picture_host
from quartzite.config import ImageSettings, RequestSettings
from quartzite.domain import ImageItem
from quartzite.engines.fake import FakeEngine
from quartzite.preprocess.pictures import Pictures
from seeing import CHAT, data_uri, png
from serving import CLASSIC, SEEING, FakeService, RequestLog, fake_service, listening
from tiny_tokenizers import library_ids

DIMENSIONS = 1_024
WIDE, HIGH = png(96, 64), png(64, 128)
FRAME = len(library_ids(CHAT, "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\n")) - 1
FRAME += len(library_ids(CHAT, "<|im_end|>\n<|im_start|>assistant\n"))
IMAGE = 2  # tokens before and behind those of a picture


@pytest.fixture
async def host() -> AsyncIterator[PictureHost]:
    """A host of pictures: one of six tokens, and none under /missing."""

    async def respond(visit: Visit) -> None:
        await visit.send(answer(b"", "404 Not Found") if "/missing" in visit.line else answer(WIDE))

    async with picture_host(respond) as running:
        yield running


def pictures_of(host: PictureHost, **settings: Any) -> Pictures:
    """Pictures that may be fetched from `host` under the name `pictures.test`."""
    allowed = ImageSettings(allowed_hosts=(f"pictures.test:{host.port}",), **settings)
    return Pictures(allowed, Names({"pictures.test": [["127.0.0.1"]], "inner.test": [["127.0.0.1"]]}))


@pytest.fixture
async def service(host: PictureHost) -> AsyncIterator[FakeService]:
    """A service with a model that takes images."""
    pictures = pictures_of(host)
    async with fake_service(FakeEngine(DIMENSIONS), pictures=pictures) as running:
        yield running
    await pictures.close()


async def post(client: httpx.AsyncClient, value: object, **fields: object) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": SEEING, "input": value, **fields})


async def vectors(client: httpx.AsyncClient, value: object, **fields: object) -> np.ndarray:
    told = await post(client, value, **fields)
    assert told.status_code == 200, told.text
    return np.array([row["embedding"] for row in told.json()["data"]], np.float32)


async def tokens(client: httpx.AsyncClient, value: object, **fields: object) -> int:
    told = await post(client, value, **fields)
    assert told.status_code == 200, told.text
    count: int = told.json()["usage"]["prompt_tokens"]
    return count


SAMPLES = {
    "Single text string": """
            curl -X POST https://api.siliconflow.cn/v1/embeddings \\
              -H "Authorization: Bearer $SILICONFLOW_API_KEY" \\
              -H "Content-Type: application/json" \\
              -d '{
                "input": "Hello, world!",
                "model": "Qwen/Qwen3-VL-Embedding-8B"
              }'
""",
    "Text content object": """
            curl -X POST https://api.siliconflow.cn/v1/embeddings \\
              -H "Authorization: Bearer $SILICONFLOW_API_KEY" \\
              -H "Content-Type: application/json" \\
              -d '{
                "input": {
                  "text": "The quick brown fox"
                },
                "model": "Qwen/Qwen3-VL-Embedding-8B",
                "encoding_format": "float"
              }'
""",
    "Image content": """
            curl -X POST https://api.siliconflow.cn/v1/embeddings \\
              -H "Authorization: Bearer $SILICONFLOW_API_KEY" \\
              -H "Content-Type: application/json" \\
              -d '{
                "input": {
                  "image": "https://example.com/image.jpg"
                },
                "model": "Qwen/Qwen3-VL-Embedding-8B"
              }'
""",
    "Mixed content list": """
            curl -X POST https://api.siliconflow.cn/v1/embeddings \\
              -H "Authorization: Bearer $SILICONFLOW_API_KEY" \\
              -H "Content-Type: application/json" \\
              -d '{
                "input": [
                  "First text",
                  {
                    "text": "Second text"
                  },
                  {
                    "image": "https://example.com/image.jpg"
                  }
                ],
                "model": "Qwen/Qwen3-VL-Embedding-8B",
                "dimensions": 768
              }'
""",
    "Long text handling": """
            curl -X POST https://api.siliconflow.cn/v1/embeddings \\
              -H "Authorization: Bearer $SILICONFLOW_API_KEY" \\
              -H "Content-Type: application/json" \\
              -d '{
                "input": "Very long text content...",
                "model": "Qwen/Qwen3-VL-Embedding-8B",
                "truncate": "right",
                "user": "user_123"
              }'
""",
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
async def test_the_calls_of_the_api_document_run_as_they_stand(
    service: FakeService, host: PictureHost, sample: str
) -> None:
    """Each by curl itself, with other hosts in the two places where the document has its own."""
    async with listening(service.app) as url:
        command = sample.replace("https://api.siliconflow.cn", str(url).rstrip("/"))
        command = command.replace("https://example.com", host.url(path=""))
        curl = await asyncio.create_subprocess_shell(
            command.strip() + " --silent --noproxy '*'", stdout=asyncio.subprocess.PIPE
        )
        told, _ = await curl.communicate()
    asked, body = json.loads(re.findall(r"-d '(.*)'", sample, re.DOTALL)[0]), orjson.loads(told)
    expected = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    assert [row["index"] for row in body["data"]] == list(range(len(expected)))
    assert {len(row["embedding"]) for row in body["data"]} == {asked.get("dimensions", DIMENSIONS)}
    assert body["usage"]["prompt_tokens"] > len(expected) * FRAME


async def test_an_image_is_the_same_however_it_is_sent(client: httpx.AsyncClient, host: PictureHost) -> None:
    """By URL, as a data URI, as bare base64: one vector."""
    bare = base64.b64encode(WIDE).decode()
    found = await vectors(client, [{"image": image} for image in (host.url(), data_uri(WIDE), bare, bare.rstrip("="))])
    assert (found == found[0]).all()


async def test_usage_counts_the_whole_prompt(client: httpx.AsyncClient) -> None:
    """Its frame, every image token and the text: 22 + N with the real tokenizer, where an image has N."""
    wide, high = {"image": data_uri(WIDE)}, {"image": data_uri(HIGH)}
    assert await tokens(client, wide) == FRAME + IMAGE + 2 * 3
    assert await tokens(client, high) == FRAME + IMAGE + 4 * 2
    assert await tokens(client, [wide, high]) == 2 * (FRAME + IMAGE) + 6 + 8
    text = len(library_ids(CHAT, "a dog")) - 1
    assert await tokens(client, wide | {"text": "a dog"}) == FRAME + IMAGE + 6 + text
    assert await tokens(client, "<a dog") == FRAME + len(library_ids(CHAT, "<a dog")) - 1


async def test_text_and_image_in_one_object_are_one_vector(client: httpx.AsyncClient) -> None:
    """It is neither that of the image nor that of the text."""
    image = data_uri(WIDE)
    found = await vectors(client, [{"image": image, "text": "a dog"}, {"image": image}, "a dog"])
    assert len(found) == 3
    assert len({row.tobytes() for row in found}) == 3


async def test_an_instruction_is_the_request_s_or_an_item_s_own(client: httpx.AsyncClient) -> None:
    """It changes the prompt; the default is the model's own sentence."""
    plain, default = await vectors(client, "a"), await vectors(client, "a", instruction="Represent the user's input.")
    asked = await vectors(client, ["a", {"text": "a", "instruction": "Sort it."}], instruction="Find it.")
    assert (plain == default).all()
    assert len({row.tobytes() for row in (*plain, *asked)}) == 3
    assert (asked[1] == await vectors(client, "a", instruction="Sort it.")).all()


@pytest.mark.parametrize("side", ["left", "right"])
async def test_truncate_cuts_the_text_and_leaves_the_image(client: httpx.AsyncClient, side: str) -> None:
    """The item has the maximum then, whatever its picture takes of it."""
    item = {"image": data_uri(WIDE), "text": "a dog " * 500}
    assert await tokens(client, item, truncate=side) == 512
    refused = await post(client, item)
    assert refused.status_code == 400
    assert refused.json()["data"] == "input"


async def test_any_whole_number_of_dimensions_in_the_range_is_taken(client: httpx.AsyncClient) -> None:
    """For models of this kind the list of the API document does not bind."""
    assert (await vectors(client, "a", dimensions=77)).shape == (1, 77)
    assert (await post(client, "a", dimensions=1_025)).status_code == 400


BAD_IMAGES: dict[str, tuple[str, str]] = {
    "cut off": (data_uri(WIDE[:-40]), "is damaged or cut off"),
    "no picture": (data_uri(b"<html>"), "holds no picture that can be read; send PNG, JPEG, WebP, GIF, BMP or TIFF."),
    "no base64": ("holiday.png", "is neither a URL nor base64."),
    "too narrow": (data_uri(png(1, 400)), "one side is more than 200 times the other."),
    "too many pixels": (
        data_uri(b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 60_000, 60_000, 1, 24, 0) + bytes(20)),
        "has 60000 x 60000 pixels; at most 50000000 in all are taken.",
    ),
    "file": ("file:///etc/passwd", "is a URL that begins with `file:`"),
    "inner host": ("http://inner.test/", "is on a host that pictures are not fetched from"),
    "missing": ("http://pictures.test:{port}/missing", "its host answered with status 404."),
}


@pytest.mark.parametrize(("image", "says"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
async def test_a_bad_image_is_named(client: httpx.AsyncClient, host: PictureHost, image: str, says: str) -> None:
    """400 / 20040 with the place of the image and what is wrong with it; the whole request fails."""
    items = ["a", {"image": data_uri(HIGH)}, {"image": image.replace("{port}", str(host.port))}]
    told = await post(client, items)
    assert told.status_code == 400
    body = orjson.loads(told.content)
    assert list(body) == ["code", "message", "data"]
    assert (body["code"], body["data"]) == (20040, "input[2].image")
    assert "`input[2].image`" in body["message"]
    assert says in body["message"]


@pytest.mark.parametrize(
    ("model", "value", "fields", "pointer", "says"),
    [
        (CLASSIC, {"image": "x"}, {}, "input.image", f"here {SEEING} takes images"),
        (CLASSIC, "a", {"instruction": "Find it."}, "instruction", f"here {SEEING} takes images"),
        (SEEING, [1, 2], {}, "input", "takes texts and images only"),
        (SEEING, {}, {}, "input", "without text or image"),
        (SEEING, [{"video": "a.mp4"}], {}, "input[0]", "has a key `video`, which is not known"),
        (SEEING, [{"type": "image_url", "image_url": {"url": "x"}}], {}, "input[0]", "has a key `type`"),
        (SEEING, "a", {"instruction": 5}, "instruction", "`instruction` is a number; send a string"),
        (SEEING, "a", {"instruction": "i" * 4_000}, "input", "a shorter instruction"),
    ],
)
async def test_other_contents_are_refused_with_what_is_taken(
    client: httpx.AsyncClient, model: str, value: object, fields: dict[str, Any], pointer: str, says: str
) -> None:
    """400 / 20015 that names the place, before anything is fetched."""
    told = await post(client, value, **{"model": model, **fields})
    assert (told.status_code, told.json()["code"], told.json()["data"]) == (400, 20015, pointer)
    assert says in told.json()["message"]


async def test_classic_models_take_text_objects(client: httpx.AsyncClient) -> None:
    """The same text has the same vector in either form."""
    found = await vectors(client, ["a dog", {"text": "a dog"}], model=CLASSIC)
    assert (found[0] == found[1]).all()


async def test_images_are_counted_in_the_log(
    client: httpx.AsyncClient, host: PictureHost, request_log: RequestLog
) -> None:
    """How many there were and what time they took; neither URL nor text."""
    await post(client, ["a", {"image": host.url(path="/secret.png")}, {"image": data_uri(HIGH), "text": "b"}])
    line = await request_log.next()
    assert (line["items"], line["images"]) == (3, 2)
    assert isinstance(line["pictures_ms"], float)
    assert "secret" not in str(line)
    await post(client, "a")
    assert not {"images", "pictures_ms"} & (await request_log.next()).keys()


async def test_images_are_counted_in_metrics(client: httpx.AsyncClient) -> None:
    """Their number and the time of their requests; requests of texts are not in the latter."""
    await post(client, [{"image": data_uri(WIDE)}, "a", {"image": data_uri(HIGH)}])
    await post(client, "a")
    page = (await client.get("/metrics")).text
    assert f'quartzite_images_total{{model="{SEEING}"}} 2.0' in page
    assert f'quartzite_picture_seconds_count{{model="{SEEING}"}} 1.0' in page
    assert "quartzite_picture_bytes 0.0" in page


async def test_fetching_ends_at_the_deadline_of_the_request() -> None:
    """504, however much longer fetching might have taken, and the picture is fetched no more."""
    left = asyncio.Event()

    async def respond(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                await visit.send(b"a")
                await asyncio.sleep(0)
        except ConnectionError:
            left.set()

    async with picture_host(respond) as host, asyncio.timeout(10):
        pictures = pictures_of(host)
        await pictures.read([ImageItem(data_uri(WIDE))])  # what reads pictures is loaded now
        requests = RequestSettings(timeout_with_images_ms=100)
        async with fake_service(requests=requests, pictures=pictures) as service, service.client() as client:
            told = await post(client, {"image": host.url()})
            assert (told.status_code, told.json()) == (504, "Request timed out after 0.1 s. Please try again later.")
            await left.wait()
        await pictures.close()
    assert service.engine.batches == []


async def test_requests_with_images_have_a_time_of_their_own() -> None:
    """An image may take minutes where a text takes milliseconds: the limit of texts does not count for it."""
    async with asyncio.timeout(20):
        engine = FakeEngine(DIMENSIONS)
        engine.hold()
        requests = RequestSettings(timeout_ms=100)
        async with (
            fake_service(engine, requests, pictures=Pictures(ImageSettings())) as service,
            service.client() as client,
        ):
            seen = asyncio.create_task(post(client, {"image": data_uri(WIDE)}))
            await engine.entered.wait()
            assert (await post(client, "a")).status_code == 504
            engine.release()
            assert (await seen).status_code == 200
            hurried = await client.post(
                "/v1/embeddings",
                json={"model": SEEING, "input": {"image": data_uri(WIDE)}},
                headers={"x-request-timeout-ms": "1"},
            )
            assert hurried.status_code == 504


async def test_more_images_than_there_is_memory_for_are_told_to_come_later() -> None:
    """503 at once while others hold the room, and room again when they have been answered."""
    inside, go = asyncio.Event(), asyncio.Event()

    async def respond(visit: Visit) -> None:
        inside.set()
        await go.wait()
        await visit.send(answer(WIDE))

    async with picture_host(respond) as host, asyncio.timeout(10):
        pictures = pictures_of(host, max_held_bytes=10_000_000)
        async with fake_service(pictures=pictures) as service, service.client() as client:
            first = asyncio.create_task(post(client, {"image": host.url()}))
            await inside.wait()
            second = await post(client, {"image": data_uri(HIGH)})
            assert (second.status_code, second.json()["code"]) == (503, 50505)
            assert (await post(client, "a")).status_code == 200
            go.set()
            assert (await first).status_code == 200
            assert (await post(client, {"image": data_uri(HIGH)})).status_code == 200
