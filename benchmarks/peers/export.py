"""Export a model folder once for a backend of sentence-transformers, in that backend's environment.

    python export.py --backend onnx --folder FOLDER --output FOLDER

An ONNX graph is optimised as sentence-transformers' documentation advises for CPUs (level O3), where the optimiser
knows the architecture.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    """Export and save."""
    from sentence_transformers import SentenceTransformer

    parser = argparse.ArgumentParser(description="Export a model folder for a backend of sentence-transformers.")
    parser.add_argument("--backend", choices=["onnx", "openvino"], required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    model = SentenceTransformer(asked.folder, device="cpu", backend=asked.backend, local_files_only=True)
    model.save_pretrained(str(asked.output))
    keep_limit(asked.output)
    if asked.backend == "onnx":
        optimise(model, asked.output)


def keep_limit(output: Path) -> None:
    """Leave the model's own limit of tokens as the only one that `output` tells.

    transformers saves `max_length` beside it, which is how `tokenizer.json` happened to be left (128 for MiniLM, which
    takes 256): fastembed would cut texts there.
    """
    file = output / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings.pop("max_length", None)
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def optimise(model: Any, output: Path) -> None:
    """Replace the saved graph by the optimised one."""
    from sentence_transformers import export_optimized_onnx_model

    try:
        export_optimized_onnx_model(model, "O3", str(output))
    except (NotImplementedError, KeyError, ValueError) as fault:
        print(f"not optimised: {fault}")
        return
    (output / "onnx" / "model_O3.onnx").replace(output / "onnx" / "model.onnx")


if __name__ == "__main__":
    main()
