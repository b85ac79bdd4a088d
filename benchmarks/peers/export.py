"""Export a model folder once for a backend of sentence-transformers, in that backend's environment.

    python export.py --backend onnx --folder FOLDER --output FOLDER

An ONNX graph is optimised as sentence-transformers' documentation advises for CPUs (level O3), where the optimiser
knows the architecture.
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer


def main() -> None:
    """Export and save."""
    parser = argparse.ArgumentParser(description="Export a model folder for a backend of sentence-transformers.")
    parser.add_argument("--backend", choices=["onnx", "openvino"], required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    model = SentenceTransformer(asked.folder, device="cpu", backend=asked.backend, local_files_only=True)
    model.save_pretrained(str(asked.output))
    if asked.backend == "onnx":
        optimise(model, asked.output)


def optimise(model: SentenceTransformer, output: Path) -> None:
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
