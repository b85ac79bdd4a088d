"""Make tests/golden/pixels.json with transformers' image processor; runs in the reference environment only.

    .venv-reference/bin/python scripts/make_pixels.py            # write it
    .venv-reference/bin/python scripts/make_pixels.py --check    # fail when it would change

A picture is opened as the model's script does (RGBA on white, all else by `convert`), then resized, normalised and cut
into patches by the processor that works with Pillow.
"""

import argparse
import json
import sys

import numpy as np
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from synthetic import golden_pixels


def main() -> int:
    """Write or check the file; return the exit status."""
    parser = argparse.ArgumentParser(description="Make the golden pixels of the tests.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file would change")
    check = parser.parse_args().check
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": golden_pixels.MIN_PIXELS, "longest_edge": golden_pixels.MAX_PIXELS},
    )
    made = {name: made_of(processor, golden_pixels.case(*how).seen) for name, how in golden_pixels.cases().items()}
    text = "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(found)}" for name, found in made.items()) + "\n}\n"
    if check:
        return int(golden_pixels.FILE.read_text(encoding="utf-8") != text)
    golden_pixels.FILE.write_text(text, encoding="utf-8")
    return 0


def made_of(processor: Qwen2VLImageProcessorPil, image: Image.Image) -> list[object] | None:
    """Return rows and columns of patches and their digest; None when the processor refuses the picture."""
    try:
        made = processor(images=[as_the_script_opens(image)], return_tensors="np")
    except ValueError as error:
        if "aspect ratio" not in str(error):
            raise
        return None
    frames = np.asarray(made["pixel_values"]).reshape(-1, 3, 2, 256)
    if not (frames[:, :, 0] == frames[:, :, 1]).all():
        raise SystemExit("the two frames of a picture are not the same")
    _, rows, columns = (int(side) for side in made["image_grid_thw"][0])
    return [rows, columns, golden_pixels.digest(frames[:, :, 0].reshape(-1, 768))]


def as_the_script_opens(image: Image.Image) -> Image.Image:
    """Return the picture in RGB."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.split()[3])
    return white


if __name__ == "__main__":
    sys.exit(main())
