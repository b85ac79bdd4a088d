"""Make a Hugging Face model folder of true layout with random weights, full size or scaled; needs numpy alone.

    python scripts/make_folder.py --like Qwen/Qwen3-Embedding-8B --output models/qwen3-8b-random
    python scripts/make_folder.py --like BAAI/bge-m3 --layers 2 --hidden 64 --heads 4 --output models/tiny

The weights are spread so widely that different texts get clearly different
vectors, and a large tensor repeats one block of about four million random values, so that a folder of 15 GB takes
little memory and only the time of writing it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from synthetic.blueprint import SIZES, VISION_SIZES, Blueprint, Dtype, FileFormat, scaled
from synthetic.folder import make_folder
from synthetic.known import KNOWN


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the folder that the command line describes."""
    options = _parser().parse_args(arguments)
    make_folder(options.output, _blueprint(options), options.tokenizer)
    print(f"{options.output}: {options.like} with random weights")


def _blueprint(options: argparse.Namespace) -> Blueprint:
    """Return the known model with all that the options change."""
    sizes = {name: getattr(options, name) for name in (*SIZES, *VISION_SIZES) if getattr(options, name) is not None}
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("dtype", "file_format", "prefix", "seed")
        if getattr(options, name) is not None
    }
    return replace(scaled(KNOWN[options.like], sizes), **changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make a model folder of true layout with random weights.")
    parser.add_argument("--like", required=True, choices=KNOWN, metavar="NAME", help=f"one of {', '.join(KNOWN)}")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="where to write; made if need be")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json to copy in, else a tiny one")
    parser.add_argument("--format", dest="file_format", choices=get_args(FileFormat), help="else the model's own")
    parser.add_argument("--dtype", choices=get_args(Dtype), help="else the model's own")
    parser.add_argument("--prefix", help='what tensor names start with, such as "bert." or "model."; else nothing')
    parser.add_argument("--seed", type=int, help="another seed, other weights; else 0")
    sizes = parser.add_argument_group("sizes, else the model's own")
    for name in (*SIZES, *VISION_SIZES):
        sizes.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N")
    return parser


if __name__ == "__main__":
    main()
