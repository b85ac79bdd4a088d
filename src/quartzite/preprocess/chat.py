"""The prompt around every item of Qwen3-VL-Embedding; knows its tokenizer, nothing of requests.

Follows the model's own script (QwenLM/Qwen3-VL-Embedding, `qwen3_vl_embedding.py`) and its chat template, which with
its end token make this, one line for each of its own:

    <|im_start|>system
    {INSTRUCTION}<|im_end|>
    <|im_start|>user
    {TEXT}<|im_end|>
    <|im_start|>assistant
    <|endoftext|>

and put `<|vision_start|>`, the image tokens of a picture and `<|vision_end|>` before TEXT.
"""

import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from quartzite.domain import Ids, ImageItem, Item, Picture, TextItem
from quartzite.errors import ModelRefused
from quartzite.preprocess.frames import Frame
from quartzite.registry.modules import DEFAULT_INSTRUCTION

_END = "<|endoftext|>"
_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_USER = "user\n"
_REMEMBERED_INSTRUCTIONS = 128


class ChatPrompt:
    """Frames items for the model whose `tokenizer` was read from `file`; `specials` are what it puts around every text.

    Raises ModelRefused if the tokenizer lacks a part of the prompt, or if its image token is not `image_token`.
    """

    def __init__(self, tokenizer: Tokenizer, file: Path, image_token: int, specials: Ids) -> None:
        self._tokenizer = tokenizer
        missing = [token for token in _CONTROL_TOKENS if len(self._ids(token)) != 1]
        if missing:
            raise ModelRefused(f"{file}: the model's prompt needs tokens that are not there: {', '.join(missing)}")
        if specials.tolist() != self._ids(_END).tolist():
            raise ModelRefused(
                f"{file}: the tokenizer must put nothing around a text but {_END} at its end, as in training"
            )
        self._image_token = image_token
        if self._ids("<|image_pad|>").tolist() != [image_token]:
            raise ModelRefused(f"{file}: <|image_pad|> is not the token {image_token} that config.json says it is")
        self._user = self._ids(_USER)
        self._vision_start, self._vision_end = self._ids("<|vision_start|>"), self._ids("<|vision_end|>")
        self._tail = np.concatenate((self._ids("<|im_end|>\n<|im_start|>assistant\n"), specials))
        self._system = lru_cache(_REMEMBERED_INSTRUCTIONS)(self._system_turn)

    def frame(self, item: Item, picture: Picture | None, instruction: str | None) -> Frame:
        """Return the prompt around the text of `item`, with the tokens of `picture` in it."""
        own = item.instruction if isinstance(item, TextItem | ImageItem) else None
        system = self._system(own or instruction or DEFAULT_INSTRUCTION)
        if picture is None:
            return Frame(system, self._tail, _USER, self._user)
        before = np.concatenate((system, self._user, self._vision_start))
        places = np.full(picture.tokens, self._image_token, np.int32)
        head = np.concatenate((before, places, self._vision_end))
        return Frame(head, self._tail, picture=picture, picture_at=len(before))

    def _system_turn(self, instruction: str) -> Ids:
        """Return the ids up to the beginning of the user's turn."""
        instruction = instruction.strip()
        if not unicodedata.category(instruction[-1]).startswith("P"):
            instruction += "."
        return self._ids(f"<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>")

    def _ids(self, text: str) -> Ids:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)
