"""Convert a model folder into a GGUF (f16) with llama.cpp's own script, which lies in `--sources`/converter.

The script refuses byte-level vocabularies whose checksum it does not know, such as the small one of folders with random
weights: those are taken for Qwen's, whose way of splitting they have.
"""

import argparse
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description="Convert a model folder into a GGUF.")
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--output", required=True)
    asked = parser.parse_args()
    converter = asked.sources / "converter"
    sys.path[:0] = [str(converter), str(converter / "gguf-py")]
    from conversion.base import TextModel

    known = TextModel.get_vocab_base_pre

    def known_or_qwen(self: TextModel, tokenizer: object) -> str:
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            return "qwen2"

    TextModel.get_vocab_base_pre = known_or_qwen
    sys.argv = ["convert_hf_to_gguf.py", asked.folder, "--outfile", asked.output, "--outtype", "f16"]
    runpy.run_path(str(converter / sys.argv[0]), run_name="__main__")


if __name__ == "__main__":
    main()
